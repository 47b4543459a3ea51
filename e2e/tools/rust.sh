# shellcheck shell=bash
# Sourced in the root of the checkout: puts a new enough cargo on the PATH. The machine's own is used if there is one, else the stable toolchain is installed under $HOLDFAST_CACHE/rust.
# A target folder for each checkout, as in the Makefile, which says why.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${HOLDFAST_CACHE:-$HOME/.cache/holdfast}/target/${PWD//\//-}}
rust_minor=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"/\1/p' Cargo.toml)
rust_is_new() { command -v cargo > /dev/null && [ "$(cargo --version | sed 's/^cargo 1\.\([0-9]*\).*/\1/')" -ge "$rust_minor" ]; }
provide_rust() {
  local cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast} host installer site=https://static.rust-lang.org/rustup/dist
  ! rust_is_new || return 0
  export RUSTUP_HOME=$cache/rust/rustup CARGO_HOME=$cache/rust/cargo PATH=$cache/rust/cargo/bin:$PATH
  if ! rust_is_new; then
    echo "installs Rust 1.$rust_minor in $cache/rust (its compiler needs gcc)" >&2
    host="$(uname -m)-unknown-linux-gnu"
    installer=$(mktemp -d)
    curl -fsSL --proto '=https' -o "$installer/rustup-init" "$site/$host/rustup-init"
    (cd "$installer" && echo "$(curl -fsSL --proto '=https' "$site/$host/rustup-init.sha256" | head -c 64)  rustup-init" | sha256sum --check --quiet)
    chmod +x "$installer/rustup-init"
    "$installer/rustup-init" -y --quiet --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain "1.$rust_minor" > /dev/null
    rm -rf "$installer"
  fi
  rust_is_new || { echo "error: cargo 1.$rust_minor or newer is needed; install it from https://rustup.rs" >&2; return 1; }
}
