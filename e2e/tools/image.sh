#!/usr/bin/env bash
# Builds the static binaries and the product's image docker.io/library/holdfast:dev, and gives it to the nodes of the test cluster if it runs.
# Archive for other clusters: $HOLDFAST_CACHE/images/product.tar
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# shellcheck source=rust.sh
source e2e/tools/rust.sh
e2e/cluster/tools.sh versitygw
provide_rust
target="$(uname -m)-unknown-linux-gnu"
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" -p holdfast-operator -p holdfast-agent
e2e/cluster/images.sh product "$CARGO_TARGET_DIR/$target/release"
