#!/usr/bin/env bash
# Installs what the cluster and the tests need, as far as it is missing:
#   Debian packages, and in $HOLDFAST_CACHE/bin: kube, kubectl, helm, coredns, versitygw, built from their Go modules.
# Builds are kept by what they were built from; a second run takes a second.
#   tools.sh              everything
#   tools.sh helm kubectl only these (and the packages)
#   tools.sh packages     only the Debian packages
#   tools.sh fetch        only what is needed to build the others: the Debian packages, Go, all modules
set -euo pipefail
# shellcheck source=state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"

HELM=v4.3.1 HELM_MODULE=helm.sh/helm/v4 HELM_PACKAGE=cmd/helm
VERSITYGW=v1.8.0 VERSITYGW_MODULE=github.com/versity/versitygw VERSITYGW_PACKAGE=cmd/versitygw
KUBERNETES=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$CLUSTER_SOURCE/go.mod")
PACKAGES=(age bsdextrautils buildah ca-certificates conntrack containerd containernetworking-plugins curl debootstrap ethtool git gcc iproute2 iptables jq libc6-dev
  make openssl postgresql-15 postgresql-client-15 procps rclone runc shellcheck socat zstd)

install_packages() {
  local package missing=()
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
  done
  python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)
  [ ${#missing[@]} != 0 ] || return 0
  say "installs Debian packages: ${missing[*]}"
  need_root
  # PostgreSQL's own cluster is not wanted, only its programs.
  if [[ " ${missing[*]} " == *" postgresql-15 "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}" > /dev/null
}

# Go: the machine's own if it is new enough, else the pinned toolchain, fetched as a module (checked by Go's checksum database) by Debian's old Go.
GO_MINOR=26 GO_TOOLCHAIN=go1.26.8
go_is_new() { command -v go > /dev/null && [ "$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go1\.\([0-9]*\).*/\1/')" -ge "$GO_MINOR" ]; }
provide_go() {
  local old=go folder
  export GOTOOLCHAIN=local
  ! go_is_new || return 0
  folder=$CACHE/tools/$GO_TOOLCHAIN
  if [ ! -x "$folder/bin/go" ]; then
    command -v go > /dev/null || { need_root; apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go > /dev/null; }
    say "fetches $GO_TOOLCHAIN"
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    (cd "$folder.partial" && "$old" mod download -json "golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.$("$old" env GOOS)-$("$old" env GOARCH)" > "$folder.partial/module.json") ||
      die "$(jq -r '.Error // "Go could not be fetched"' "$folder.partial/module.json"); install Go 1.$GO_MINOR or newer and put it on the PATH"
    cp -r "$(jq -r .Dir "$folder.partial/module.json")/." "$folder.partial/"
    chmod -R u+w "$folder.partial"
    chmod +x "$folder.partial/bin/"* # modules carry no modes
    find "$folder.partial/pkg/tool" -type f -exec chmod +x {} +
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
  fi
  export PATH=$folder/bin:$PATH
  unset GOROOT
  go_is_new || die "$folder/bin/go does not run"
}

# What each is built from.
declare -A KEYS
keys() {
  local go
  go=$(go env GOVERSION)
  KEYS=(
    [kube]="$go $(cat "$CLUSTER_SOURCE"/{go.mod,go.sum,main.go})"
    [helm]="$go $HELM"
    [coredns]="$go $(cat "$CLUSTER_SOURCE"/dns/*)"
    [versitygw]="$go $VERSITYGW"
  )
}
folder() { echo "$CACHE/tools/$1-$(echo "${KEYS[$1]}" | sha256sum | cut -c 1-16)"; }
built() { [ -x "$(folder "$1")/$1" ]; }
build() { # NAME: build_NAME leaves the program in the folder that it gets
  local name=$1 folder
  folder=$(folder "$name")
  if ! built "$name"; then
    say "builds $name (once per machine, some minutes)"
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    "build_$name" "$folder.partial"
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
  fi
  ln -sfn "$folder/$name" "$CACHE/bin/$name.new"
  mv -fT "$CACHE/bin/$name.new" "$CACHE/bin/$name"
}
# All with the same flags: what they have in common is compiled once. Without a debugger's tables a seventh of the time is saved.
export CGO_ENABLED=0 GOFLAGS='-trimpath -gcflags=all=-dwarf=false'
build_kube() {
  local package=k8s.io/component-base/version minor=${KUBERNETES#v1.}
  (cd "$CLUSTER_SOURCE" && go build -o "$1/kube" \
    -ldflags "-s -w -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean" .)
}
build_coredns() { (cd "$CLUSTER_SOURCE/dns" && go build -o "$1/coredns" .); }
build_helm() { GOBIN=$1 go install "$HELM_MODULE/$HELM_PACKAGE@$HELM"; }
build_versitygw() { GOBIN=$1 go install "$VERSITYGW_MODULE/$VERSITYGW_PACKAGE@$VERSITYGW"; }
# fetch_NAME fetches the modules while another is compiled. A build fetches what is missing itself.
fetch_kube() { (cd "$CLUSTER_SOURCE" && go list -deps .); }
fetch_coredns() { (cd "$CLUSTER_SOURCE/dns" && go list -deps .); }
fetch_helm() { fetch_module "$HELM_MODULE@$HELM" "$HELM_PACKAGE"; }
fetch_versitygw() { fetch_module "$VERSITYGW_MODULE@$VERSITYGW" "$VERSITYGW_PACKAGE"; }
fetch() { local tool; for tool in "${tools[@]}"; do built "$tool" || "fetch_$tool" || true; done; }
fetch_module() { (cd "$(go mod download -json "$1" | jq -r .Dir)" && go list -deps "./$2"); }

lock tools
install_packages
mkdir -p "$CACHE/bin" "$CACHE/tools"
[ "$*" != packages ] || exit 0
provide_go
keys
tools=(kube coredns helm versitygw)
[ "$*" != fetch ] || { fetch; exit; }
[ $# = 0 ] || tools=()
for tool in "$@"; do
  case $tool in
    kube | kubectl) tools+=(kube) ;;
    helm | coredns | versitygw) tools+=("$tool") ;;
    packages) ;;
    *) die "tool '$tool' is not known; known are kube, kubectl, helm, coredns, versitygw, and alone packages or fetch" ;;
  esac
done
fetch > /dev/null 2>&1 &
for tool in "${tools[@]}"; do build "$tool"; done
wait
[[ " ${tools[*]} " != *" kube "* ]] || ln -sfn kube "$CACHE/bin/kubectl"
