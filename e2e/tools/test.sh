#!/usr/bin/env bash
# Runs groups of checks and tests, shows their output, and ends in one line that sums all counts: "N passed, N failed".
#   test.sh lint dependencies unit chart e2e
#                     a failure does not keep the others from running; dependencies, unit and chart run while tests of e2e leave the processor idle
# A step that fails without a failed test (it does not compile, clippy has found something) counts as one failure. No test at all is a failure too.
#   test.sh long                     the end-to-end tests that wait for ten minutes and more, which e2e leaves out
#   T=name            only the tests whose name contains it (groups e2e and long)
#   CLUSTER=current   the current kube context, a cluster for tests, instead of our own; HOLDFAST_IMAGE is then an image that it can pull.
#                     Tests that stop its nodes, kill processes, read its audit log or remove Holdfast from it are left out.
set -euo pipefail
shopt -s extglob nullglob
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export RUST_BACKTRACE=0
export HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
export PATH=$HOLDFAST_CACHE/bin:$PATH
# shellcheck source=rust.sh
source e2e/tools/rust.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# step NAME COMMAND…: its output is shown as it comes; counts are read from the lines "test result: …; N passed; N failed; …".
step() {
  local name=$1 started=$SECONDS code=0 output=$work/$BASHPID
  shift
  printf '\n=== %s\n' "$name"
  "$@" 2>&1 | tee "$output" || code=${PIPESTATUS[0]}
  awk -v name="$name" -v code="$code" -v seconds=$((SECONDS - started)) '
    /^test result: / {for (i = 2; i <= NF; i++) {if ($i ~ /^passed/) p += $(i - 1); if ($i ~ /^failed/) f += $(i - 1)}}
    END {if (code && !f) f = 1; printf "%-34s %5d passed %4d failed %6d s  %s\n", name, p, f, seconds, f ? "FAILED" : "ok"}' "$output" >> "$work/summary"
  return "$code"
}

# Which groups are still to be run.
[ $# != 0 ] || set -- lint dependencies unit chart e2e
for group in "$@"; do
  [[ $group =~ ^(lint|dependencies|unit|chart|e2e|long)$ ]] ||
    { echo "error: group '$group' is not known; known are lint, dependencies, unit, chart, e2e, long" >&2; exit 2; }
done
groups=" $* "
take() { [[ $groups == *" $1 "* ]] && groups=${groups/" $1 "/ }; }
# beside GROUPS COMMAND…: both at once; what the groups say is shown after the command.
beside() {
  local group process mine=()
  for group in $1; do ! take "$group" || mine+=("$group"); done
  shift
  [ ${#mine[@]} != 0 ] || { "$@"; return; }
  set -m # with a process group, which can be ended
  for group in "${mine[@]}"; do "$group"; done > "$work/beside" 2>&1 < /dev/null &
  process=$!
  set +m
  trap 'kill -- -$process; exit 1' INT TERM HUP
  "$@" || true
  echo "waits for ${mine[*]}, which run beside"
  wait "$process" || echo "${mine[*]} did not end: 0 passed 1 failed" >> "$work/summary"
  trap - INT TERM HUP
  cat "$work/beside"
}

# What may be in the binaries, by deny.toml. Advisories are not asked for: a commit that was good would fail on the day one is published.
CARGO_DENY=0.20.2
dependencies() { step "dependencies" check_dependencies || true; }
check_dependencies() {
  local folder=$HOLDFAST_CACHE/tools/cargo-deny-$CARGO_DENY
  if [ ! -x "$folder/bin/cargo-deny" ]; then
    echo "builds cargo-deny (once per machine, some minutes)"
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root "$folder" "cargo-deny@$CARGO_DENY" || return
  fi
  "$folder/bin/cargo-deny" --locked check bans licenses sources
}
shell_scripts() { git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck; }

prepare() { e2e/cluster/tools.sh packages && provide_rust; }

lint() {
  step "cargo fmt" cargo fmt --all --check || true
  step "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings || true
  step "shellcheck" shell_scripts || true
}

# All tests are built as one selection of packages, so that dependencies are compiled with one set of features.
run_tests() { cargo test --workspace --locked --no-fail-fast "$@"; }
programs() { # PATTERN of files: names of the test programs, a line each, in the order of the alphabet
  local file
  # shellcheck disable=SC2053  # a pattern
  for file in */tests/*.rs */tests/*/main.rs; do [[ $file != $1 ]] || basename "${file%/main.rs}" .rs; done | sort -u
}
targets() { programs "$1" | sed 's/^/--test /' | tr '\n' ' '; } # … as arguments of cargo test

unit() {
  local tests
  step "tools: S3 server" e2e/cluster/tools.sh versitygw || return 0
  read -ra tests <<< "--lib $(targets '!(e2e/*)')"
  step "unit, scenario and store tests" run_tests "${tests[@]}" || true
}

# Tests of the chart are e2e/tests/chart*.rs and need no cluster; all others do.
chart() {
  local tests
  step "tools: Helm, kubectl" e2e/cluster/tools.sh helm kubectl || return 0
  step "helm lint" helm lint --strict charts/holdfast-crds charts/holdfast || true
  read -ra tests <<< "$(targets 'e2e/tests/chart*')"
  step "chart tests" run_tests "${tests[@]}" || true
}

start_cluster() { e2e/cluster/up.sh > "$HOLDFAST_CACHE/kubeconfig-path"; }
installed() { # the cluster, the image, the chart
  if [ "${CLUSTER:-}" != current ]; then
    mkdir -p "$HOLDFAST_CACHE"
    step "test cluster" start_cluster || return
    KUBECONFIG=$(cat "$HOLDFAST_CACHE/kubeconfig-path")
    export KUBECONFIG
    step "image" e2e/tools/image.sh || return
  fi
  step "install the chart" e2e/tools/install.sh
}
# Most of a test's time is waiting: more of them at once than there are cores (the seats of e2e/src/sandbox.rs say how many).
program() { step "end-to-end tests: $1" run_tests --test "$1" -- --test-threads=10 "${@:2}" ${T:+"$T"} || true; }
e2e() {
  local tests name
  installed || return 0
  read -ra tests <<< "$(targets 'e2e/tests/!(chart*)')"
  # What runs beside a test is not compiled beside it.
  [[ ! $groups =~ " unit "|" chart " ]] || tests=(--tests)
  step "tests are compiled" run_tests --no-run "${tests[@]}" || return 0
  if [ "${CLUSTER:-}" = current ]; then
    local only_ours=(--skip disruption::a_kubelet_that_restarts --skip disruption::a_node_that_is_lost --skip operator::the_operator_connects
      --skip web_identity:: --skip failures::pod_security)
    echo "left out: the programs administration, operator, recovery, rights; ${only_ours[*]}"
    program cluster "${only_ours[@]}"
    return
  fi
  beside unit waiting
  program cluster
  beside "chart dependencies" program recovery
  for name in $(programs 'e2e/tests/!(chart*)'); do
    case $name in administration | operator | cluster | recovery) ;; *) program "$name" ;; esac
  done
}
waiting() { program administration; program operator; } # as recovery does, more than all others
# What takes too long for e2e.
long() { ! installed || program cluster --ignored; }

step "tools: Debian packages, Rust" prepare || { echo "0 passed, 1 failed"; exit 1; }
provide_rust
# Fetching waits for others, and compiling does not. What fails here is tried again, and shown, when it is needed.
[[ $groups != *" e2e "* || ${CLUSTER:-} = current ]] || { e2e/cluster/tools.sh fetch; e2e/cluster/images.sh build debian pause postgres1{5..8}; } > /dev/null 2>&1 < /dev/null &
for group in lint e2e long unit chart dependencies; do
  ! take "$group" || "$group"
done

printf '\n=== summary\n'
cat "$work/summary"
read -r passed failed < <(awk '{for (i = 2; i <= NF; i++) {if ($i == "passed") p += $(i - 1); if ($i == "failed") f += $(i - 1)}} END {print p + 0, f + 0}' "$work/summary")
if [ "$passed" = 0 ] && [ "$failed" = 0 ] && [[ " $* " =~ " unit "|" chart "|" e2e "|" long " ]]; then
  echo "error: no test ran"
  failed=1
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
