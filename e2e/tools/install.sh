#!/usr/bin/env bash
# Installs or upgrades the chart in the cluster that KUBECONFIG names, from this checkout, and waits until the operator is ready.
#   HOLDFAST_IMAGE   the image (default docker.io/library/holdfast:dev, which image.sh gives to the nodes of the test cluster)
# Further arguments go to helm:   install.sh --set replicas=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
image=${HOLDFAST_IMAGE:-docker.io/library/holdfast:dev}
# The tag stays the same from build to build; the digest makes the operator's pods new.
digest=$(cat "$cache/images/product.tar.digest" 2> /dev/null || echo none)
"$cache/bin/helm" upgrade --install holdfast charts/holdfast --namespace holdfast-system --create-namespace --take-ownership --wait --timeout 3m \
  --set "image.repository=${image%:*}" --set "image.tag=${image##*:}" --set-string "podAnnotations.holdfast\.dev/build=$digest" "$@"
