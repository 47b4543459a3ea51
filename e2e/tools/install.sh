#!/usr/bin/env bash
# Installs or upgrades the chart in the cluster that KUBECONFIG names, from this checkout, and waits until the operator is ready.
#   HOLDFAST_IMAGE   another image than that of the chart's defaults, which image.sh gives to the nodes of the test cluster
# Further arguments go to helm:   install.sh --set replicas=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
image=()
[ -z "${HOLDFAST_IMAGE:-}" ] || image=(--set "image.repository=${HOLDFAST_IMAGE%:*}" --set "image.tag=${HOLDFAST_IMAGE##*:}")
# The tag stays the same from build to build; the digest makes the operator's pods new.
digest=$(cat "$cache/images/product.tar.digest" 2> /dev/null || echo none)
"$cache/bin/helm" upgrade --install holdfast charts/holdfast --namespace holdfast-system --create-namespace --take-ownership --wait --timeout 3m \
  "${image[@]}" --set-string "podAnnotations.holdfast\.dev/build=$digest" "$@"
