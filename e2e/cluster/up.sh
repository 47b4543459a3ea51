#!/usr/bin/env bash
# Starts a Kubernetes cluster with two nodes on this machine and prints the path of its kubeconfig (all else goes to stderr):
#   export KUBECONFIG=$(e2e/cluster/up.sh)
# A second call finds all running and returns at once. What died is started again; what cannot be repaired, or is from before a reboot, is built anew.
set -euo pipefail
# shellcheck source=state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"
# shellcheck source=components.sh
source "$CLUSTER_SOURCE/components.sh"

boot_id() { cat /proc/sys/kernel/random/boot_id; }
ensure() { # COMPONENT COMMAND…: started if it is not alive
  alive "$1" || { say "starts $1"; "${@:2}"; }
}
all_alive() {
  local component node
  for component in etcd apiserver controllers scheduler proxy dns; do alive "$component" || return 1; done
  for node in "${NODES[@]}"; do alive "containerd-$node" && alive "kubelet-$node" || return 1; done
}
all_ready() {
  local node
  api_ready && proxy_ready && dns_ready && service_account_ready || return 1
  for node in "${NODES[@]}"; do node_ready "$node" || return 1; done
}

bring_up() {
  local node
  mkdir -p "$DIR"
  chmod 711 "$DIR"
  [ -e "$DIR/boot" ] || boot_id > "$DIR/boot"
  [ -e "$KUBECONFIG_ADMIN" ] || { rm -rf "$DIR/pki"; for node in "${NODES[@]}"; do mkdir -p "$DIR/$node"; done; write_certificates; }
  write_configuration
  make_network
  make_cgroups

  for node in "${NODES[@]}"; do ensure "containerd-$node" start_containerd "$node"; done
  ensure etcd start_etcd
  ensure apiserver start_apiserver
  await 90 "the API server is ready" api_ready || return 1
  ensure controllers start_controllers
  ensure scheduler start_scheduler
  ensure proxy start_proxy
  ensure dns start_dns
  for node in "${NODES[@]}"; do
    await 30 "containerd of $node answers" containerd_ready "$node" || return 1
    # The sandbox's image first: without it no pod starts.
    "$CLUSTER_SOURCE/images.sh" import pause || return 1
    node_freeze "$node" 0
    ensure "kubelet-$node" start_kubelet "$node"
  done
  apply_dns_service > /dev/null || return 1
  "$CLUSTER_SOURCE/images.sh" import || return 1
  for node in "${NODES[@]}"; do await 90 "$node is Ready" node_ready "$node" || return 1; done
  await 30 "kube-proxy has written its rules" proxy_ready || return 1
  await 30 "the DNS server has read the services" dns_ready || return 1
  await 30 "the default service account exists" service_account_ready
}

need_root
"$CLUSTER_SOURCE/tools.sh"
"$CLUSTER_SOURCE/images.sh" build
lock cluster
started=$SECONDS
if [ -e "$DIR/boot" ] && [ "$(boot_id)" != "$(cat "$DIR/boot")" ]; then
  say "the cluster is from before the machine's last start: builds it anew"
  HOLDFAST_CLUSTER_LOCKED=1 "$CLUSTER_SOURCE/down.sh"
fi
if all_alive && all_ready > /dev/null 2>&1 && "$CLUSTER_SOURCE/images.sh" import; then
  say "runs already: ${NODES[*]} Ready"
else
  if ! bring_up; then
    say "could not be repaired: builds it anew (the logs of the failed one: $DIR/logs, kept as $CACHE/logs-of-last-failure)"
    rm -rf "$CACHE/logs-of-last-failure"
    cp -r "$DIR/logs" "$CACHE/logs-of-last-failure" 2> /dev/null || true
    HOLDFAST_CLUSTER_LOCKED=1 "$CLUSTER_SOURCE/down.sh"
    bring_up || die "the cluster does not start; look into $DIR/logs"
  fi
  say "${NODES[*]} Ready after $((SECONDS - started)) s"
fi
echo "$KUBECONFIG_ADMIN"
