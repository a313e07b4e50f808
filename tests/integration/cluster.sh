# Sourced by the integration tests: a real coordinator and real workers on loopback.
# Everything lives in $DIR, which goes away at the end unless the test failed.
set -euo pipefail

BUILD=${KD_BUILD:-$PWD/build/dev}
DIR=$(mktemp -d "${TMPDIR:-/tmp}/kd-it-XXXXXX")
export DISTILL_SERVER=
# Nothing of what the user of this machine has chosen.
export DISTILL_CONFIG=$DIR/config
declare -A PIDS=()
# What the daemons are started through (env ..., ip netns exec ...), further flags of distilld, where the coordinator listens, and
# where workers look for it if not there.
AROUND_COORDINATOR=()
COORDINATOR_FLAGS=()
AROUND_WORKER=()
WORKER_SERVER=
HOST=127.0.0.1
LEASE_MS=${LEASE_MS:-4000}
# A sanitizer that finds something must be seen whatever the program's own exit code is.
export ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=print_stacktrace=1

finish() {
    local rc=$?
    for p in "${PIDS[@]}"; do
        pkill -KILL -P "$p" || true # a function in the background is a shell with the program below it
        kill -9 "$p" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if grep -lE '(ERROR: (Address|Leak)|WARNING: Thread)Sanitizer|runtime error:|BUG: ' "$DIR"/*.log 2>/dev/null; then
        echo "a sanitizer or a check complained in the logs above"
        rc=1
    fi
    if [ $rc -ne 0 ] && [ $rc -ne 77 ]; then
        for f in "$DIR"/*.log; do
            [ ! -e "$f" ] || { echo "--- $f"; tail -n 30 "$f"; }
        done
        echo "FAILED; kept $DIR"
    else
        rm -rf "$DIR"
    fi
    exit $rc
}
trap finish EXIT

fail() { echo "FAIL: $*"; exit 1; }
note() { echo "== $*"; }

# expect CODE TEXT COMMAND...: exit code and a part of what it prints.
expect() {
    local code=$1 text=$2 rc=0; shift 2
    "$@" >"$DIR/out" 2>&1 || rc=$?
    [ $rc -eq "$code" ] || { cat "$DIR/out"; fail "$*: exit code $rc, $code was expected"; }
    grep -qF -- "$text" "$DIR/out" || { cat "$DIR/out"; fail "$*: no \"$text\" in its output"; }
}

# await SECONDS COMMAND...: until it succeeds.
await() {
    local tries=$(($1 * 10)); shift
    for _ in $(seq $tries); do
        "$@" && return
        sleep 0.1
    done
    fail "in vain: $*"
}

# await_port NAME FILE: until the process of that name has written its port there.
await_port() {
    for _ in $(seq 300); do
        [ -s "$2" ] && return
        kill -0 "${PIDS[$1]}" 2>/dev/null || fail "$1 did not start"
        sleep 0.1
    done
    fail "$1 has no port"
}

# coordinator [STATE]: starts distilld on a free port (the same one after a restart).
coordinator() {
    local state=${1:-$DIR/state} listen=${DISTILL_SERVER:-$HOST:0}
    rm -f "$DIR/port"
    "${AROUND_COORDINATOR[@]}" "$BUILD/distilld" --state-dir "$state" --listen "$listen" \
        --port-file "$DIR/port" --heartbeat-ms 200 --lease-ms "$LEASE_MS" \
        "${COORDINATOR_FLAGS[@]}" >>"$DIR/distilld.log" 2>&1 &
    PIDS[distilld]=$!
    await_port distilld "$DIR/port"
    DISTILL_SERVER=$HOST:$(cat "$DIR/port")
    export DISTILL_SERVER
}

# worker NAME [THREADS [ROOT]]
worker() {
    "${AROUND_WORKER[@]}" "$BUILD/distill-worker" --server "${WORKER_SERVER:-$DISTILL_SERVER}" \
        --name "$1" --threads "${2:-1}" --data-root "${3:-$DIR/data}" >>"$DIR/worker-$1.log" 2>&1 &
    PIDS[$1]=$!
}

# serve NAME MODEL FLAGS...: `distill serve` on SERVE_HOST (127.0.0.1) and the port SERVE_PORT (any free one); $ADDRESS from
# then on.
serve() {
    local name=$1 host=${SERVE_HOST:-127.0.0.1}; shift
    rm -f "$DIR/$name.port"
    "$BUILD/distill" serve "$@" --listen "$host:${SERVE_PORT:-0}" --port-file "$DIR/$name.port" \
        >"$DIR/$name.out" 2>>"$DIR/serve-$name.log" &
    PIDS[$name]=$!
    await_port "$name" "$DIR/$name.port"
    ADDRESS=$host:$(cat "$DIR/$name.port")
}

# stop NAME [SIGNAL]: and waits for it.
stop() {
    local pid=${PIDS[$1]} signal=${2:-TERM}
    kill -"$signal" "$pid"
    local rc=0
    wait "$pid" 2>/dev/null || rc=$?
    unset "PIDS[$1]"
    if [ "$signal" = TERM ] && [ $rc -ne 0 ]; then fail "$1 ended with $rc after SIGTERM"; fi
}

workers_there() { "$BUILD/distill" workers -o json | grep -c '"name"' || true; }
await_workers() {
    for _ in $(seq 300); do
        [ "$(workers_there)" -ge "$1" ] && return
        sleep 0.1
    done
    fail "$1 workers did not join"
}

distill() { "$BUILD/distill" "$@"; }

# stage_field JOB STAGE FIELD: a field of `distill show -o json`.
stage_field() {
    distill show "$1" -o json | python3 -c '
import json, sys
d = json.load(sys.stdin)
for s in d["stages"]:
    if s["name"] == sys.argv[1]:
        print(s.get(sys.argv[2], ""))' "$2" "$3"
}
# digests JOB: of teacher, student and twin on one line.
digests() {
    local s
    for s in teacher distill scratch; do printf '%s ' "$(stage_field "$1" $s digest)"; done
    echo
}
# await_steps JOB STAGE N: until the stage has committed that many steps.
await_steps() {
    local n
    for _ in $(seq 1200); do
        n=$(stage_field "$1" "$2" committed)
        [ "${n:-0}" -ge "$3" ] && return
        sleep 0.1
    done
    fail "stage $2 of $1 did not reach step $3"
}

# call METHOD JSON: of service Jobs, by a foreign client; JSON comes back.
call() { /usr/bin/python3 tests/integration/call.py "$@"; }
needs_grpc() { /usr/bin/python3 -c 'import grpc' 2>/dev/null || exit 77; }
# pick EXPRESSION: of the JSON on standard input, as `d`.
pick() { /usr/bin/python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
# says TEXT: the standard input does. (All of it is read, or the writer would be cut off.)
says() {
    local all
    all=$(cat)
    grep -qF -- "$1" <<<"$all"
}

# log_says TEXT: the coordinator's does.
log_says() { says "$1" <"$DIR/distilld.log"; }
# metric 'NAME{LABELS}': of a coordinator that was started with HTTP_FLAGS; nothing if there is none.
HTTP_FLAGS=(--http 127.0.0.1:0 --http-port-file "$DIR/http-port")
metrics() { curl -sS --max-time 20 "http://127.0.0.1:$(cat "$DIR/http-port")/metrics"; }
metric() { metrics | awk -v name="$1" '$1 == name { print $2 }'; }

# has_event JOB TEXT: one of its events says so. (Captured first: grep -q would close the pipe.)
has_event() {
    local all
    all=$(distill events "$1")
    says "$2" <<<"$all"
}
await_event() {
    for _ in $(seq 300); do
        has_event "$1" "$2" && return
        sleep 0.1
    done
    fail "no event of $1 says: $2"
}

# small_data: drawn flowers whose number is no multiple of the batch.
small_data() {
    mkdir -p "$DIR/data"
    distill data make flowers "$DIR/data/flowers" --size 32 --train 90 --val 37 --seed 5
}
# idle_job NAME: a job that nobody is to train.
idle_job() {
    cat <<YAML
name: $1
data: {labelled: {path: data, train: train.txt, val: val.txt, size: 32}}
teacher: {model: cheap_cnn, fine_tune: {epochs: 1}}
student: {model: cheap_cnn}
distill: {epochs: 1, batch: 8, optimizer: {name: adam, lr: 1e-3}}
YAML
}
# plain_job [SEED]: a student alone, in no time.
plain_job() {
    cat <<YAML
name: plain
seed: ${1:-1}
data: {labelled: {path: flowers, train: train.txt, val: val.txt, size: 32}}
student: {model: cheap_cnn}
distill: {loss: {kd: 0, ce: 1}, epochs: 1, batch: 16, slots: 4, optimizer: {name: adam, lr: 1e-3}}
YAML
}
# small_job [lines]: a job that touches every stage in seconds.
small_job() {
    cat <<YAML
name: small
seed: 3
data:
  labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 32}
  augment: [flip, {crop: {pad: 2}}]
teacher:
  model: mobilenet_v2
  width: 0.35
  padding: torch
  fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-3}, batch_norm: trained}
student: {model: shallow_cnn}
distill:
  loss: {kd: 0.9, ce: 0.1, temperature: 5, t2: none}
  optimizer: {name: adam, lr: 1e-3}
  epochs: 2
  batch: 16
  slots: 4
  views: 1
scratch: {optimizer: {name: adam, lr: 1e-3}, epochs: 1}
cluster: {min_workers: 1, max_workers: 8, checkpoint_every: 3}
YAML
}
# small_cluster NAME...: data, the small job's file, a coordinator and workers of these names, which have joined.
small_cluster() {
    local name
    small_data
    small_job >"$DIR/job.yaml"
    coordinator
    for name in "$@"; do worker "$name"; done
    await_workers $#
}
