#!/usr/bin/env bash
# Starts a Kubernetes API server without nodes, for tests that need only the API: validation, admission, RBAC, Helm.
# Prints the path of its kubeconfig (a user of system:masters) when it is ready, and stops when its standard input is closed, whatever ended
# the process that held it. By hand: e2e/tools/api-server.sh, and Ctrl-D when done. All that it makes is in a folder of its own, and goes with it.
set -euo pipefail
# shellcheck source=../cluster/state.sh
source "$(dirname "${BASH_SOURCE[0]}")/../cluster/state.sh"

[ -x "$KUBE" ] || "$CLUSTER_SOURCE/tools.sh" kube >&2
folder=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-api.XXXXXX")
pids=()
stop() {
  [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" 2> /dev/null || true
  wait 2> /dev/null || true
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 1' INT TERM HUP

# Three ports that are free now. Below the range of which the kernel takes ports for outgoing connections, so that none is taken meanwhile.
ports=()
while [ ${#ports[@]} -lt 3 ]; do
  port=$((10000 + RANDOM % 20000))
  [ -n "$(ss -Hltn "sport = :$port")" ] || ports+=("$port")
done
etcd=http://127.0.0.1:${ports[0]} peer=http://127.0.0.1:${ports[1]} server=https://127.0.0.1:${ports[2]}

umask 077
openssl genrsa -out "$folder/sa.key" 2048 2> /dev/null
openssl rsa -in "$folder/sa.key" -pubout -out "$folder/sa.pub" 2> /dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" > "$folder/tokens.csv"
cat > "$folder/kubeconfig" << YAML
apiVersion: v1
kind: Config
clusters: [{name: api, cluster: {server: "$server", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: api, context: {cluster: api, user: admin}}]
current-context: api
YAML

run() { # NAME ARGUMENT…
  "$KUBE" "${@:2}" > "$folder/$1.log" 2>&1 < /dev/null &
  pids+=($!)
}
ready() { curl -fsSk --max-time 2 -H "Authorization: Bearer $token" "$server/readyz"; }
run etcd etcd --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
run apiserver kube-apiserver --etcd-servers="$etcd" --bind-address=127.0.0.1 --secure-port="${ports[2]}" --cert-dir="$folder/pki" \
  --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC --allow-privileged=true --token-auth-file="$folder/tokens.csv" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-signing-key-file="$folder/sa.key" --service-account-key-file="$folder/sa.pub"
await 120 "the API server is ready" ready || { tail -5 "$folder"/*.log >&2; exit 1; }
# Aggregates ClusterRoles, checks the types of admission policies, and ends namespaces.
run controllers kube-controller-manager --kubeconfig="$folder/kubeconfig" --authentication-kubeconfig="$folder/kubeconfig" \
  --authorization-kubeconfig="$folder/kubeconfig" --bind-address=127.0.0.1 --secure-port=0 --leader-elect=false \
  --controllers=clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller,namespace-controller
echo "$folder/kubeconfig"
cat > /dev/null # until standard input is closed
