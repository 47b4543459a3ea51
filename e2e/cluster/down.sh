#!/usr/bin/env bash
# Stops the cluster and removes all that it made: pods first, then kubelets, the API server before etcd (it hangs on a dead etcd), containerd at last;
# then mounts, network devices, routes, iptables chains, cgroups and its folder. Works on a cluster in any state. The cache stays.
set -euo pipefail
# shellcheck source=state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"
# shellcheck source=components.sh
source "$CLUSTER_SOURCE/components.sh"

need_root
[ -n "${HOLDFAST_CLUSTER_LOCKED:-}" ] || lock cluster

stop_pods() { # the regular way, where the control plane still answers; what remains is killed below
  local node living=()
  for node in "${NODES[@]}"; do
    node_freeze "$node" 0
    ! alive "kubelet-$node" || living+=("$node")
  done
  terminate controllers
  terminate scheduler
  if alive apiserver && api_ready > /dev/null 2>&1; then
    kubectl --request-timeout=10s delete pods --all --all-namespaces --grace-period=1 --wait=false > /dev/null 2>&1 || true
    for node in "${living[@]}"; do await 20 "the pods of $node end" no_pods "$node" || true; done
  fi
}
no_pods() {
  local names
  names=$(kubectl --request-timeout=5s get pods --all-namespaces --field-selector "spec.nodeName=$1" -o name) && [ -z "$names" ]
}

mounts() { awk -v dir="$DIR/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | sort -r; }

remove_chains() { # what kube-proxy wrote: first the jumps into its chains, then the chains
  local table line
  for table in nat filter mangle; do
    iptables-save -t "$table" > "$DIR/rules"
    while read -r line; do
      eval "iptables -w -t $table -D ${line#-A }" # quoted as iptables-save writes it
    done < <(awk '/^-A / && $2 !~ /^KUBE-/ && / -j KUBE-/' "$DIR/rules")
    while read -r line; do iptables -w -t "$table" -F "$line"; done < <(sed -n 's/^:\(KUBE-[^ ]*\) .*/\1/p' "$DIR/rules")
    while read -r line; do iptables -w -t "$table" -X "$line"; done < <(sed -n 's/^:\(KUBE-[^ ]*\) .*/\1/p' "$DIR/rules")
  done
  iptables -w -D FORWARD -s "$POD_NETWORK" -j ACCEPT 2> /dev/null || true
  iptables -w -D FORWARD -d "$POD_NETWORK" -j ACCEPT 2> /dev/null || true
}

remove_cgroups() {
  local root
  for root in $(cgroup_roots); do
    [ ! -d "$root/$(node_cgroup "$1")" ] || find "$root/$(node_cgroup "$1")" -depth -type d -exec rmdir {} + 2> /dev/null || true
  done
}

[ -e "$DIR" ] || { say "nothing runs"; exit 0; }
say "stops pods and processes"
stop_pods
for node in "${NODES[@]}"; do terminate "kubelet-$node"; done
terminate dns
terminate proxy
for node in "${NODES[@]}"; do await 20 "the containers of $node end" kill_processes "$node" || die "processes of $node do not end: $(node_processes "$node" | tr '\n' ' ')"; done
terminate apiserver
terminate etcd
for node in "${NODES[@]}"; do terminate "containerd-$node"; done

say "removes mounts, network, cgroups and $DIR"
for path in $(mounts); do umount -l "$path" 2> /dev/null || true; done
[ -z "$(mounts)" ] || die "still mounted: $(mounts | tr '\n' ' ')"
remove_chains
for node in "${NODES[@]}"; do
  remove_cgroups "$node"
  ip link delete "$(node_bridge "$node")" 2> /dev/null || true
done
ip link delete "$SERVICE_BRIDGE" 2> /dev/null || true
[ ! -e "$DIR/ip_forward" ] || cat "$DIR/ip_forward" > /proc/sys/net/ipv4/ip_forward
# Sockets of shims that were killed.
for path in /run/containerd/s/*; do
  [ ! -S "$path" ] || grep -qF "$path" /proc/net/unix || rm -f "$path"
done
find /var/log/containers -maxdepth 1 -type l -lname "$DIR/*" -delete 2> /dev/null || true
rm -rf --one-file-system "$DIR"
