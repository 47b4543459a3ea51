#!/usr/bin/env bash
# What happens to nodes and to the control plane, on purpose, for tests. Every command returns when its effect is there.
#   node.sh stop NODE              power off: kubelet, containers and containerd are killed at once
#   node.sh stop-kubelet NODE      the node is lost to the cluster, its containers run on
#   node.sh freeze NODE            lost, and its containers stand still
#   node.sh thaw NODE              the containers run on (zombies, until `start`)
#   node.sh start NODE             back again, whichever way it went; waits until it is Ready
#   node.sh restart-kubelet NODE   containers run on
#   node.sh not-ready NODE         waits until the cluster has noticed that the node is gone (about 50 s)
#   node.sh kill COMPONENT         SIGKILL to apiserver, etcd, controllers, scheduler, proxy or dns
#   node.sh resume                 starts what was killed, as up.sh does
#   node.sh lose                   the cluster is lost: its nodes lose power, and what its API server knew is put away; a new one starts in its place,
#                                  with the same machines, addresses, certificates and images, and knows nothing
#   node.sh back                   the lost cluster is back with all that it knew; the one in its place is gone
set -euo pipefail
# shellcheck source=state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"
# shellcheck source=components.sh
source "$CLUSTER_SOURCE/components.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

renewal() { kubectl --request-timeout=5s get lease "$1" -n kube-node-lease -o 'jsonpath={.spec.renewTime}'; }
renewed() { [ "$(renewal "$1")" != "$2" ]; }
knows_pods() { # the kubelet has read which pods are its own
  local all own
  all=$(kubectl --request-timeout=5s get pods --all-namespaces --field-selector "spec.nodeName=$1" -o name | wc -l) &&
    own=$(kubectl --request-timeout=5s get --raw "/api/v1/nodes/$1/proxy/pods" | jq '.items | length') && [ "$own" -ge "$all" ]
}

start_node() {
  local before
  before=$(renewal "$1" || true)
  alive "containerd-$1" || start_containerd "$1"
  await 30 "containerd of $1 answers" containerd_ready "$1"
  node_freeze "$1" 0
  alive "kubelet-$1" || start_kubelet "$1"
  await 60 "the kubelet of $1 answers" kubelet_healthy "$1"
  # The cluster may not have noticed that it was away: Ready counts from its next sign of life.
  await 60 "$1 renews its lease" renewed "$1" "$before"
  await 90 "$1 is Ready" node_ready "$1"
  await 30 "$1 knows its pods" knows_pods "$1"
}

power_off() { # all nodes and the control plane
  local node
  for node in "${NODES[@]}"; do terminate "kubelet-$node" KILL; done
  for node in "${NODES[@]}"; do await 20 "the containers of $node end" kill_processes "$node"; done
  for node in controllers scheduler proxy dns apiserver etcd; do terminate "$node" KILL; done
}
apiserver_runs() { alive apiserver || start_apiserver; api_ready; }
power_on() {
  local node
  start_etcd
  # The port of the one that was killed may be taken for another moment.
  await 90 "the API server is ready" apiserver_runs
  start_controllers
  start_scheduler
  start_proxy
  start_dns
  apply_dns_service > /dev/null
  for node in "${NODES[@]}"; do start_node "$node"; done
  await 30 "kube-proxy has written its rules" proxy_ready
  await 30 "the DNS server has read the services" dns_ready
  await 30 "the default service account exists" service_account_ready
}

need_root
[ -e "$KUBECONFIG_ADMIN" ] || die "no cluster runs in $DIR; start one with e2e/cluster/up.sh"
[ "${1:-}" = not-ready ] || lock cluster
case ${1:-} in
  stop | stop-kubelet | freeze | thaw | start | restart-kubelet | not-ready) check_node "${2:-}" ;;
esac
case ${1:-} in
  stop)
    terminate "kubelet-$2" KILL
    await 20 "the containers of $2 end" kill_processes "$2"
    terminate "containerd-$2" KILL
    await 20 "the containers of $2 end" kill_processes "$2"
    ;;
  stop-kubelet) terminate "kubelet-$2" KILL ;;
  freeze)
    terminate "kubelet-$2" KILL
    node_freeze "$2" 1
    ;;
  thaw) node_freeze "$2" 0 ;;
  start) start_node "$2" ;;
  restart-kubelet)
    terminate "kubelet-$2"
    start_node "$2"
    ;;
  not-ready) kubectl wait "node/$2" --for=condition=Ready=Unknown --timeout=120s > /dev/null ;;
  kill)
    case ${2:-} in
      apiserver | etcd | controllers | scheduler | proxy | dns) terminate "$2" KILL ;;
      *) die "component '${2:-}' is not known; known are apiserver, etcd, controllers, scheduler, proxy, dns" ;;
    esac
    ;;
  lose)
    [ ! -e "$DIR/etcd.lost" ] || die "a cluster is lost already; node.sh back brings it back"
    power_off
    mv "$DIR/etcd" "$DIR/etcd.lost"
    power_on
    ;;
  back)
    [ -e "$DIR/etcd.lost" ] || die "no cluster is lost"
    power_off
    rm -rf "$DIR/etcd"
    mv "$DIR/etcd.lost" "$DIR/etcd"
    power_on
    ;;
  resume)
    exec 9>&-
    "$CLUSTER_SOURCE/up.sh" > /dev/null
    ;;
  *) usage ;;
esac
