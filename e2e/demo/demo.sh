#!/usr/bin/env bash
# The main job on a real cluster: a schedule makes a copy, the database is lost, and comes back; then once more with nothing but age, zstd and pg_restore.
#   demo.sh          shows it; what is already there is used again
#   demo.sh down     removes all that it made, with the cluster if it is ours
#   CLUSTER=current  uses the current kube context; HOLDFAST_IMAGE is then an image that it can pull
#   ROWS             rows of the large table (default 1000000, about 200 MB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
export PATH=$HOLDFAST_CACHE/bin:$PATH
NAMESPACE=holdfast-demo
ROWS=${ROWS:-1000000}
WORK=$HOLDFAST_CACHE/demo

title() { printf '\n\033[1m── %s\033[0m\n' "$*"; }
show() { printf '$ kubectl %s\n' "$*"; kubectl -n "$NAMESPACE" "$@"; }
psql_pod() { kubectl -n "$NAMESPACE" exec -i shop -- psql -XqAt -v ON_ERROR_STOP=1 -U postgres "$@"; }
checksums() { psql_pod -d "${1:-shop}" < e2e/demo/checksums.sql; }
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

use_cluster() {
  if [ "${CLUSTER:-}" = current ]; then
    command -v kubectl > /dev/null || { echo "error: kubectl is not on the PATH" >&2; exit 1; }
    e2e/cluster/tools.sh packages helm
  else
    KUBECONFIG=$(e2e/cluster/up.sh)
    export KUBECONFIG
  fi
}

down() {
  if [ "${CLUSTER:-}" = current ]; then
    kubectl delete namespace "$NAMESPACE" --ignore-not-found
    helm uninstall holdfast --namespace holdfast-system --ignore-not-found
    kubectl delete namespace holdfast-system --ignore-not-found
    kubectl get crds -o name | grep '\.holdfast\.dev$' | xargs -r kubectl delete
  else
    e2e/cluster/down.sh
  fi
  rm -rf "$WORK"
}

case ${1:-} in
  "") ;;
  down) down; exit ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

title "A cluster, the image, and Holdfast installed by Helm"
use_cluster
[ "${CLUSTER:-}" = current ] || e2e/tools/image.sh
e2e/tools/install.sh
umask 077
rm -rf "$WORK"
mkdir -p "$WORK"

title "A PostgreSQL server with data worth losing, and an S3 server"
kubectl delete namespace "$NAMESPACE" --ignore-not-found --wait
kubectl create namespace "$NAMESPACE"
kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=restricted
printf 'username=postgres\npassword=%s\n' "$(random)" > "$WORK/login.env"
printf 'access_key_id=demo\nsecret_access_key=%s\n' "$(random)" > "$WORK/s3.env"
age-keygen -o "$WORK/identity.txt" 2> /dev/null
recipient=$(age-keygen -y "$WORK/identity.txt")
kubectl -n "$NAMESPACE" create secret generic shop --from-env-file="$WORK/login.env"
kubectl -n "$NAMESPACE" create secret generic s3 --from-env-file="$WORK/s3.env"
kubectl -n "$NAMESPACE" create secret generic age-key --from-file=identity="$WORK/identity.txt"
kubectl -n "$NAMESPACE" apply -f e2e/demo/postgres.yaml -f e2e/demo/s3.yaml
kubectl -n "$NAMESPACE" wait --for=condition=Ready pod/shop pod/s3 --timeout=180s
psql_pod -d postgres -c 'create database shop'
kubectl -n "$NAMESPACE" exec shop -- pgbench -i -s 5 -q -U postgres shop 2> /dev/null || echo "(this image has no pgbench: its tables are left out)"
psql_pod -d shop -v rows="$ROWS" -f - < e2e/demo/data.sql > /dev/null
checksums > "$WORK/before"
echo "database shop: $(psql_pod -d shop -c "select pg_size_pretty(pg_database_size('shop'))"), $(wc -l < "$WORK/before") things with a checksum each"

title "A store, a source and a schedule: plain kubectl apply"
sed "s/RECIPIENT/$recipient/" e2e/demo/backup.yaml | tee "$WORK/backup.yaml"
kubectl -n "$NAMESPACE" apply -f "$WORK/backup.yaml"
kubectl -n "$NAMESPACE" wait --for=condition=Ready backupstore/offsite --timeout=180s
show get backupstores,backupschedules

title "The next tick makes a run"
read -r run < <(timeout 150 kubectl -n "$NAMESPACE" get backupruns --watch -o 'jsonpath={.metadata.name}{"\n"}')
kubectl -n "$NAMESPACE" patch backupschedule every-minute --type=merge -p '{"spec":{"suspend":true}}'
kubectl -n "$NAMESPACE" wait --for=jsonpath='{.status.phase}'=Succeeded "backuprun/$run" --timeout=600s
show get backupruns,backupsources
kubectl -n "$NAMESPACE" get backuprun "$run" -o jsonpath='{.status.copy}' | python3 -m json.tool 2> /dev/null || true

title "The database is lost"
psql_pod -d postgres -c 'drop database shop with (force)'
psql_pod -d shop -c 'select 1' 2>&1 | head -1 || true

title "A RestoreRequest brings it back"
sed "s/RUN/$run/" e2e/demo/restore.yaml | tee "$WORK/restore.yaml"
kubectl -n "$NAMESPACE" apply -f "$WORK/restore.yaml"
kubectl -n "$NAMESPACE" wait --for=jsonpath='{.status.phase}'=Succeeded restorerequest/get-it-back --timeout=900s
show get restorerequests
checksums > "$WORK/after"
diff "$WORK/before" "$WORK/after" && echo "equal: all $(wc -l < "$WORK/after") checksums are those from before"

title "The same copy once more, without Holdfast: an S3 client, age, zstd and pg_restore"
exec {forwarded}< <(exec kubectl -n "$NAMESPACE" port-forward pod/s3 17070:7070 2>&1)
forward=$!
trap 'kill "$forward" 2> /dev/null || true' EXIT
read -r line <&"$forwarded" # "Forwarding from …", once it listens
[[ $line == Forwarding* ]] || { echo "error: $line" >&2; exit 1; }
# shellcheck source=/dev/null
source "$WORK/s3.env"
export RCLONE_CONFIG_COPY_TYPE=s3 RCLONE_CONFIG_COPY_PROVIDER=Other RCLONE_CONFIG_COPY_ENDPOINT=http://127.0.0.1:17070 RCLONE_CONFIG_COPY_REGION=us-east-1
# shellcheck disable=SC2154  # from s3.env
export RCLONE_CONFIG_COPY_ACCESS_KEY_ID=$access_key_id RCLONE_CONFIG_COPY_SECRET_ACCESS_KEY=$secret_access_key
e2e/demo/restore-without-holdfast.sh copy:backups/demo "$NAMESPACE/shop/$run" shop "$WORK/identity.txt" "$WORK/by-hand"
psql_pod -d postgres -c 'create database by_hand'
kubectl -n "$NAMESPACE" exec -i shop -- pg_restore -U postgres -d by_hand --exit-on-error < "$WORK/by-hand/shop.dump"
checksums by_hand | grep -v '^database ' > "$WORK/by-hand.sums"
grep -v '^database ' "$WORK/before" | diff - "$WORK/by-hand.sums" && echo "equal again"

title "Look further"
cat <<TEXT
export KUBECONFIG=${KUBECONFIG:-\$HOME/.kube/config}
kubectl -n $NAMESPACE get holdfast            # everything of Holdfast
kubectl -n $NAMESPACE describe backuprun $run
kubectl -n $NAMESPACE get events
make demo-down                                # removes everything
TEXT
