#!/usr/bin/env bash
# Builds the static binaries and the product's image by the name that the chart has by default, and gives it to the nodes of the test cluster if it runs.
# Archive for other clusters: $HOLDFAST_CACHE/images/product.tar
#   HOLDFAST_PROFILE=dev   compiles faster, runs slower
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
profile=${HOLDFAST_PROFILE:-release}
# shellcheck source=rust.sh
source e2e/tools/rust.sh
e2e/cluster/tools.sh versitygw
provide_rust
target="$(uname -m)-unknown-linux-gnu"
RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile "$profile" --locked --target "$target" -p holdfast-operator -p holdfast-agent
[ "$profile" != dev ] || profile=debug
e2e/cluster/images.sh product "$CARGO_TARGET_DIR/$target/$profile"
