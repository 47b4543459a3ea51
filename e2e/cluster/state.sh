# shellcheck shell=bash
# Where the cluster and its tools live, and how its processes are started, watched and stopped. Sourced by the other scripts.
#   HOLDFAST_CACHE        what is built once per machine (default ~/.cache/holdfast): tools, images, Cargo's target folders
#   HOLDFAST_CLUSTER_DIR  what belongs to the running cluster (default /var/tmp/holdfast-cluster); down.sh removes it
# shellcheck disable=SC2034  # used by the scripts that source this one

CLUSTER_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(cd "$CLUSTER_SOURCE/../.." && pwd)
CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
DIR=${HOLDFAST_CLUSTER_DIR:-/var/tmp/holdfast-cluster}

NODES=(node1 node2)
POD_NETWORK=10.244.0.0/16
SERVICE_NETWORK=10.96.0.0/16
SERVICE_BRIDGE=holdfast-svc
DNS_ADDRESS=10.96.0.10
API_ADDRESS=10.244.0.1
API_PORT=6443
SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

KUBE=$CACHE/bin/kube
KUBECTL=$CACHE/bin/kubectl
COREDNS=$CACHE/bin/coredns
export KUBECONFIG_ADMIN=$DIR/admin.kubeconfig

say() { printf '[cluster] %s\n' "$*" >&2; }
die() { printf '[cluster] error: %s\n' "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "$(basename "$0") needs root: it makes network devices, mounts and cgroups; run it with sudo -E"; }
kubectl() { "$KUBECTL" --kubeconfig "$KUBECONFIG_ADMIN" "$@"; }

node_number() { echo "${1#node}"; }
node_address() { echo "10.244.$(($(node_number "$1") - 1)).1"; }
node_pods() { echo "10.244.$(($(node_number "$1") - 1)).0/24"; }
node_bridge() { echo "holdfast-$1"; }
node_cgroup() { echo "holdfast-$1"; }
node_socket() { echo "$DIR/$1/containerd.sock"; }
check_node() {
  local node
  for node in "${NODES[@]}"; do [ "$node" != "${1:-}" ] || return 0; done
  die "node '${1:-}' does not exist; the nodes are: ${NODES[*]}"
}

# lock NAME: at most one script at a time changes the cluster (or the cache). Held on a descriptor that children do not get.
lock() {
  mkdir -p "$CACHE/lock"
  exec 9> "$CACHE/lock/$1"
  flock -n 9 || { say "waiting for another script that holds the lock '$1'"; flock 9; }
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local seconds=$1 what=$2 deadline
  shift 2
  deadline=$((SECONDS + seconds))
  until "$@" > /dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      say "gave up after ${seconds}s: $what"
      return 1
    fi
    sleep 0.2
  done
}

# --- processes: known by their id and start time, so that a reused id is never taken for ours -----------------------------------
process_birth() { # the start time of a living process, nothing for one that is gone or a zombie
  local stat
  stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
  # shellcheck disable=SC2086  # the fields after the command's name, which may hold blanks itself
  set -- ${stat##*) }
  [ "$1" != Z ] && echo "${20}"
}
process_id() { # NAME: the id of our living process
  local pid birth
  read -r pid birth 2> /dev/null < "$DIR/run/$1.pid" || return 1
  [ "$(process_birth "$pid")" = "$birth" ] && echo "$pid"
}
alive() { process_id "$1" > /dev/null; }
launch() { # NAME COMMAND…
  local name=$1 pid
  shift
  mkdir -p "$DIR/run" "$DIR/logs"
  PATH=$SYSTEM_PATH setsid "$@" >> "$DIR/logs/$name.log" 2>&1 < /dev/null 9>&- &
  pid=$!
  echo "$pid $(process_birth "$pid")" > "$DIR/run/$name.pid"
}
terminate() { # NAME [SIGNAL]: returns when the process is gone
  local name=$1 signal=${2:-TERM} pid
  if pid=$(process_id "$name"); then
    kill -"$signal" "$pid" 2> /dev/null || true
    if ! await 20 "process $name ($pid) ends" gone "$name"; then
      kill -KILL "$pid" 2> /dev/null || true
      await 10 "process $name ($pid) ends after SIGKILL" gone "$name" || return 1
    fi
  fi
  rm -f "$DIR/run/$name.pid"
}
gone() { ! alive "$1"; }

# --- cgroups of a node, one tree in version 2, one per controller in version 1 --------------------------------------------------
cgroup_version() { if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then echo 2; else echo 1; fi; }
cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts; } # the folders under which a node's own cgroup is made
node_processes() { # every process in the node's containers
  local root
  for root in $(cgroup_roots); do
    find "$root/$(node_cgroup "$1")" -name cgroup.procs -exec cat {} + 2> /dev/null || true
  done | sort -nu
}
node_freeze() { # NODE 0|1: stops or continues every process in the node's containers, without telling anyone
  local file
  if [ "$(cgroup_version)" = 2 ]; then
    file=/sys/fs/cgroup/$(node_cgroup "$1")/cgroup.freeze
    [ ! -e "$file" ] || echo "$2" > "$file"
  else
    file=/sys/fs/cgroup/freezer/$(node_cgroup "$1")/freezer.state
    [ ! -e "$file" ] || { if [ "$2" = 1 ]; then echo FROZEN; else echo THAWED; fi > "$file"; }
  fi
}
node_shims() { # the containerd shims of the node, known by the socket that they report to
  local file
  for file in /proc/[0-9]*/cmdline; do
    if tr '\0' '\n' 2> /dev/null < "$file" | grep -qxF "$(node_socket "$1")" && tr '\0' '\n' < "$file" | head -1 | grep -q containerd-shim; then
      basename "$(dirname "$file")"
    fi
  done 2> /dev/null
}
no_processes() { [ -z "$(node_processes "$1")" ] && [ -z "$(node_shims "$1")" ]; }
kill_processes() { # NODE: containers and shims, at once, as a loss of power does
  local pid
  node_freeze "$1" 0
  for pid in $(node_processes "$1") $(node_shims "$1"); do kill -KILL "$pid" 2> /dev/null || true; done
  no_processes "$1"
}
