# Sourced by the fault tests, from the repository's root, with their own arguments and once they have a
# function `usage`: cases that stand for themselves, each in a folder and with daemons of its own, and a
# table of what came of them.

# Before cluster.sh makes anything. NO_ARGUMENTS=yes: the script takes none but --help.
case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
?*)
    [ "${NO_ARGUMENTS-}" != yes ] || {
        usage >&2
        exit 2
    }
    ;;
esac
. tests/integration/cluster.sh

TABLE_WIDTH=34
FAILED=0
CASES=0

# case_of LABEL FUNCTION ARGUMENTS...: runs it in a shell of its own and adds a line to the table. What
# the function hands to `tell` stands there, too. $DIR is the case's own folder; data and the job file
# are the shared ones. A function that returns 77 is skipped.
case_of() {
    local label=$1 rc=0 begun=$SECONDS verdict=ok parent=$DIR
    shift
    CASES=$((CASES + 1))
    : >"$DIR/told"
    # In the background, since a shell on the left of || would not stop at its first failing command.
    (
        set -euo pipefail
        PIDS=()
        DISTILL_SERVER=
        TOLD=$parent/told
        WANT=$parent/want
        DIR=$parent/$(tr -c 'A-Za-z0-9.\n' - <<<"$label")
        mkdir "$DIR"
        ln -s "$parent/data" "$DIR/data"
        cp "$parent/job.yaml" "$DIR/job.yaml"
        [ ! -e "$parent/start.safetensors" ] || ln "$parent/start.safetensors" "$DIR/start.safetensors"
        trap finish EXIT
        "$@"
    ) >"$DIR/output" 2>&1 &
    trap "kill $! 2>/dev/null; wait; exit 130" INT TERM
    wait $! || rc=$?
    trap - INT TERM
    [ $rc -eq 0 ] || verdict=FAIL
    [ $rc -ne 77 ] || verdict=skipped
    printf "%-${TABLE_WIDTH}s %-7s %4ss  %s\n" "$label" "$verdict" $((SECONDS - begun)) \
        "$(tr '\n' ' ' <"$DIR/told")"
    if [ $verdict = FAIL ]; then
        FAILED=$((FAILED + 1))
        sed 's/^/    | /' "$DIR/output" | tail -n "${KD_FAULT_LINES:-60}"
    fi
}

# table_end: the last line, and the script's exit code.
table_end() {
    echo "$((CASES - FAILED)) of $CASES cases well"
    [ $FAILED -eq 0 ]
}

tell() { echo "$*" >>"$TOLD"; }

# one_of NAME NAMES...: the first is among the others.
one_of() { printf '%s\n' "${@:2}" | grep -qxF -- "$1"; }
# no_such WHAT NAME [TEXT]: the end, since the command line names something unknown.
no_such() {
    echo "${0##*/}: there is no $1 \"$2\"${3-}" >&2
    exit 2
}

# fault_data [EPOCHS]: the pictures and the job file, once for all cases.
fault_data() {
    small_data >/dev/null
    small_job | sed "s/^  epochs: 2/  epochs: ${1:-2}/" >"$DIR/job.yaml"
}

# workers N [THREADS]: w1 to wN.
workers() {
    local i
    for i in $(seq "$1"); do worker "w$i" "${2:-1}"; done
    await_workers "$1"
}
# cluster N [THREADS]: a coordinator and workers w1 to wN.
cluster() {
    coordinator
    workers "$@"
}
# kill_all: all of them at once.
kill_all() {
    local p
    for p in "${PIDS[@]}"; do kill -KILL "$p"; done
    wait "${PIDS[@]}" 2>/dev/null || true
    PIDS=()
}
# finish_after COMMAND...: for a trap on EXIT; runs it, then what is done at every end.
finish_after() {
    local rc=$?
    # Or the shell would end at the next failure, without `finish`.
    set +e
    "$@"
    (exit $rc)
    finish
}

# await N COMMAND...: until it succeeds, N times with 0.1 s between; fails if it never does.
await() {
    local n=$1
    shift
    for _ in $(seq "$n"); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}

# submit FLAGS...: the case's job; prints its id.
submit() { distill submit "$DIR/job.yaml" -q "$@"; }
state_of() { distill show "$1" -o json | pick 'd["state"]'; }
step_of() { stage_field "$1" distill committed; }

# history_of JOB: checked; what must not differ goes to standard output.
history_of() {
    distill show "$1" -o json >"$DIR/show.json"
    distill events "$1" -o json >"$DIR/events.jsonl"
    /usr/bin/python3 tests/fault/history.py "$DIR/show.json" "$DIR/events.jsonl"
}

# ended JOB [TIMEOUT]: waits for its success; a job without faults takes a few seconds.
ended() {
    local rc=0
    distill wait "$1" --timeout "${2:-2m}" || rc=$?
    [ $rc -eq 0 ] || fail "job $1: distill wait ended with $rc"
}

# undisturbed JOB: its digests and history are what all others must come to.
undisturbed() {
    history_of "$1" >"$WANT" || fail "the history of the undisturbed job is not in order"
    tell "$(digest_of "$1")"
}
# undisturbed_job [WORKERS]: runs it.
undisturbed_job() {
    local job
    cluster "${1:-2}"
    job=$(submit)
    ended "$job"
    undisturbed "$job"
}

# same JOB [TEXT]: as the undisturbed one; its digest and the text go into the table.
same() {
    history_of "$1" >"$DIR/got" || fail "the history is not in order"
    diff "$WANT" "$DIR/got" || fail "digests or history differ from the undisturbed job's"
    tell "$(digest_of "$1") ${*:2}"
}

digest_of() { stage_field "$1" distill digest | cut -c 1-12; }

# redone JOB: what the product tells of work done again, "not told" where it does not.
redone() {
    distill show "$1" -o json | pick '(lambda v: sum(v) if None not in v else "not told")([
        s.get("steps_redone") for s in d["stages"]])'
}

# proxy NAME FLAGS...: between whoever uses $PROXY and the coordinator.
proxy() {
    local name=$1
    shift
    rm -f "$DIR/$name.port"
    "$BUILD/tests/kd-proxy" --listen 127.0.0.1:0 --to "$DISTILL_SERVER" \
        --port-file "$DIR/$name.port" "$@" >"$DIR/$name.counts" 2>>"$DIR/$name.log" &
    PIDS[$name]=$!
    await 50 test -s "$DIR/$name.port" || fail "$name did not start"
    PROXY=127.0.0.1:$(cat "$DIR/$name.port")
}

# proxy_turn NAME: its faults on or off, and waits until they are (two signals at once would be one).
proxy_turn() {
    local before
    before=$(wc -l <"$DIR/$1.counts")
    kill -USR1 "${PIDS[$1]}"
    for _ in $(seq 100); do
        [ "$(wc -l <"$DIR/$1.counts")" -le "$before" ] || return 0
        sleep 0.02
    done
    fail "$1 does not answer"
}

# proxy_count NAME KIND: how many faults of that kind there were; the proxy has been stopped.
proxy_count() { grep -oE "$2 [0-9]+" "$DIR/$1.counts" | tail -n 1 | grep -oE '[0-9]+$'; }

free_port() {
    /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
