#!/usr/bin/env bash
# The main job on a real cluster: a schedule makes a copy, the database is lost, and comes back; then once more with nothing but age, zstd and pg_restore.
#   demo.sh          shows it; what is already there is used again
#   demo.sh down     removes all that it made, with the cluster if it is ours
#   CLUSTER=current  uses the current kube context, where Holdfast must not be installed yet; HOLDFAST_IMAGE is then an image that it can pull
#   ROWS             rows of the large table (default 1000000, about 200 MB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
export PATH=$HOLDFAST_CACHE/bin:$PATH
NAMESPACE=holdfast-demo
ROWS=${ROWS:-1000000}
WORK=$HOLDFAST_CACHE/demo

STEP=start
title() { STEP=$*; printf '\n\033[1m── %s\033[0m  (%d s)\n' "$*" "$SECONDS"; }
show() { printf '\n$ kubectl -n %s %s\n' "$NAMESPACE" "$*"; kubectl -n "$NAMESPACE" "$@"; }
fail() { echo "error: $*" >&2; exit 1; }
run_quietly() { # COMMAND…: its output is shown only when it fails
  local log
  log=$(mktemp)
  "$@" > "$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; return 1; }
  rm -f "$log"
}
psql_pod() { kubectl -n "$NAMESPACE" exec -i shop -- psql -XqAt -v ON_ERROR_STOP=1 -U postgres "$@"; }
checksums() { psql_pod -d "${1:-shop}" < e2e/demo/checksums.sql; }
table() { # FILE of checksums, as columns
  { echo $'WHAT\tROWS\tCHECKSUM'; sed -E 's/ ([0-9]+) ([0-9a-f]+)$/\t\1\t\2/' "$1"; } | column -t -s $'\t'
}
equal() { # BEFORE AFTER
  diff "$1" "$2" || fail "what was restored differs: lines with < are from before, with > from after"
  echo "equal: all $(wc -l < "$2") checksums are those from before"
}
follow() { # KIND/NAME SECONDS: a line for each change of its status, until it has ended; fails unless it succeeded
  local object=$1 watch lines begin=$SECONDS phase=none reason message last=none
  exec {lines}< <(exec timeout "$2" kubectl -n "$NAMESPACE" get "$object" --watch -o 'jsonpath={.status.phase}|{.status.reason}|{.status.message}|{"\n"}')
  watch=$!
  while IFS='|' read -r -u "$lines" phase reason message _; do
    printf '  %3d s  %-10s %-14s %s\n' $((SECONDS - begin)) "$phase" "$reason" "$message"
    last=${phase:-without a status}
    case $phase in Succeeded | Failed | Cancelled) break ;; esac
  done
  kill "$watch" 2> /dev/null || true
  exec {lines}<&-
  [ "$phase" = Succeeded ] || fail "$object is ${last} after $((SECONDS - begin)) s; kubectl -n $NAMESPACE describe $object says more"
}
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

installed_by_demo() { [ "$(kubectl get namespace holdfast-system --ignore-not-found -o 'jsonpath={.metadata.labels.holdfast-demo}')" = true ]; }
definitions() { kubectl get crds -o 'jsonpath={range .items[?(@.spec.group=="holdfast.dev")]}{.metadata.name}{"\n"}{end}'; }

use_cluster() {
  if [ "${CLUSTER:-}" = current ]; then
    command -v kubectl > /dev/null || fail "kubectl is not on the PATH"
    [ -n "${HOLDFAST_IMAGE:-}" ] || fail "CLUSTER=current needs HOLDFAST_IMAGE, an image that your cluster can pull:" \
      "'make image' builds $HOLDFAST_CACHE/images/product.tar; push it where your cluster pulls from"
    e2e/cluster/tools.sh packages helm
    if ! installed_by_demo && { helm status holdfast --namespace holdfast-system || [ -n "$(definitions)" ]; } > /dev/null 2>&1; then
      fail "Holdfast is installed in this cluster, not by a demo: the demo would replace it, and 'make demo-down' would remove it; use a cluster without it"
    fi
    kubectl create namespace holdfast-system 2> /dev/null || true
    kubectl label --overwrite namespace holdfast-system holdfast-demo=true
  else
    KUBECONFIG=$(e2e/cluster/up.sh)
    export KUBECONFIG
  fi
}

down() {
  if [ "${CLUSTER:-}" = current ]; then
    kubectl delete namespace "$NAMESPACE" --ignore-not-found
    if installed_by_demo; then
      helm uninstall holdfast --namespace holdfast-system --ignore-not-found
      kubectl delete namespace holdfast-system
      definitions | xargs -r kubectl delete crd
    else
      echo "Holdfast itself was not installed by the demo, and stays"
    fi
  else
    e2e/cluster/down.sh
  fi
  rm -rf "$WORK"
}

forward=
ended() {
  local code=$?
  [ -z "$forward" ] || kill "$forward" 2> /dev/null || true
  [ "$code" != 0 ] || return 0
  printf '\n\033[1mThe demo failed\033[0m after %d s, in: %s\n' "$SECONDS" "$STEP" >&2
  cat >&2 << TEXT
What is there stays, to be looked at:
  export KUBECONFIG=${KUBECONFIG:-\$HOME/.kube/config} PATH=$HOLDFAST_CACHE/bin:\$PATH
  kubectl -n $NAMESPACE get holdfast,pods,events
  kubectl -n holdfast-system logs deployment/holdfast
\`make demo\` begins anew; \`make demo-down\` removes everything.
TEXT
  exit 1
}

case ${1:-} in
  "") ;;
  down) down; exit ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

trap ended EXIT
title "A cluster, the image, and Holdfast installed by Helm"
use_cluster
[ "${CLUSTER:-}" = current ] || e2e/tools/image.sh
run_quietly e2e/tools/install.sh
kubectl get nodes
helm list --namespace holdfast-system
kubectl -n holdfast-system get pods
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
# Its port is open a moment before it takes connections.
kubectl -n "$NAMESPACE" exec shop -- timeout 30 sh -c 'until pg_isready -q; do sleep 0.1; done'
psql_pod -d postgres -c 'create database shop'
kubectl -n "$NAMESPACE" exec shop -- pgbench -i -s 5 -q -U postgres shop 2> "$WORK/pgbench" || { cat "$WORK/pgbench"; fail "pgbench does not fill the database"; }
psql_pod -d shop -v rows="$ROWS" -f - < e2e/demo/data.sql > /dev/null
checksums > "$WORK/before"
printf '\ndatabase shop, %s: tables, large objects, sequences and definitions, with rows and a checksum each\n\n' "$(psql_pod -d shop -c "select pg_size_pretty(pg_database_size('shop'))")"
table "$WORK/before"

title "A store, a source and a schedule: plain kubectl apply"
sed "s/RECIPIENT/$recipient/" e2e/demo/backup.yaml | tee "$WORK/backup.yaml"
show apply -f "$WORK/backup.yaml"
kubectl -n "$NAMESPACE" wait --for=condition=Ready backupstore/offsite backupschedule/every-minute --timeout=180s > /dev/null
show get backupstores,backupsources
show get backupschedules

title "The next tick makes a run"
run=$(timeout 150 kubectl -n "$NAMESPACE" get backupruns --watch -o 'jsonpath={.metadata.name}{"\n"}' | head -1) || true
[ -n "$run" ] || fail "no run was made within two minutes; kubectl -n $NAMESPACE describe backupschedule every-minute says more"
echo "$run"
follow "backuprun/$run" 600
kubectl -n "$NAMESPACE" wait --for=condition=Protected backupsource/shop --timeout=60s > /dev/null
show get backupruns "$run"
show get backupsources
echo
echo "What the copy holds (backuprun $run, status.copy):"
kubectl -n "$NAMESPACE" get backuprun "$run" -o json | jq .status.copy
kubectl -n "$NAMESPACE" patch backupschedule every-minute --type=merge -p '{"spec":{"suspend":true}}'

title "The database is lost"
echo 'postgres=# drop database shop with (force)'
psql_pod -d postgres -c 'drop database shop with (force)'
if lost=$(psql_pod -d shop -c 'select 1' 2>&1); then fail "database shop is still there"; fi
head -1 <<< "$lost"

title "A RestoreRequest brings it back"
sed "s/RUN/$run/" e2e/demo/restore.yaml | tee "$WORK/restore.yaml"
show apply -f "$WORK/restore.yaml"
follow restorerequest/get-it-back 900
show get restorerequests
checksums > "$WORK/after"
equal "$WORK/before" "$WORK/after"

title "The same copy once more, without Holdfast: an S3 client, age, zstd and pg_restore"
exec {forwarded}< <(exec kubectl -n "$NAMESPACE" port-forward pod/s3 17070:7070 2>&1)
forward=$!
read -r line <&"$forwarded" # "Forwarding from …", once it listens
[[ $line == Forwarding* ]] || fail "$line"
# shellcheck source=/dev/null
source "$WORK/s3.env"
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_COPY_TYPE=s3 RCLONE_CONFIG_COPY_PROVIDER=Other RCLONE_CONFIG_COPY_ENDPOINT=http://127.0.0.1:17070 RCLONE_CONFIG_COPY_REGION=us-east-1
# shellcheck disable=SC2154  # from s3.env
export RCLONE_CONFIG_COPY_ACCESS_KEY_ID=$access_key_id RCLONE_CONFIG_COPY_SECRET_ACCESS_KEY=$secret_access_key
by_hand=(copy:backups/demo "$NAMESPACE/shop/$run" shop "$WORK/identity.txt" "$WORK/by-hand")
echo "$ e2e/demo/restore-without-holdfast.sh ${by_hand[*]}"
e2e/demo/restore-without-holdfast.sh "${by_hand[@]}"
ls -lh "$WORK/by-hand"
psql_pod -d postgres -c 'create database by_hand'
echo "$ pg_restore -d by_hand --exit-on-error < shop.dump"
kubectl -n "$NAMESPACE" exec -i shop -- pg_restore -U postgres -d by_hand --exit-on-error < "$WORK/by-hand/shop.dump"
# Without --create, the comment and the settings of the database itself are not restored.
grep -v '^database ' "$WORK/before" > "$WORK/before-by-hand"
checksums by_hand | grep -v '^database ' > "$WORK/after-by-hand"
equal "$WORK/before-by-hand" "$WORK/after-by-hand"

title "Done. Look further"
cat << TEXT
export KUBECONFIG=${KUBECONFIG:-\$HOME/.kube/config} PATH=$HOLDFAST_CACHE/bin:\$PATH
kubectl -n $NAMESPACE get holdfast                      # all that Holdfast knows here
kubectl -n $NAMESPACE describe backuprun $run
kubectl -n $NAMESPACE events --for backuprun/$run
kubectl explain backupschedule.spec                      # every field is explained
kubectl -n $NAMESPACE patch backupschedule every-minute --type=merge -p '{"spec":{"suspend":false}}'   # a copy each minute again
make demo-down                                           # removes everything
TEXT
