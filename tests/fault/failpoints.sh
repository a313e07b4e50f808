#!/usr/bin/env bash
# A process killed at each failpoint, started again, and the job comes to the same bits and history.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/failpoints.sh [--quick|--every] [NAME...]

For each failpoint (all, or the NAMEs): a coordinator and two workers run a small job that uploads
weights, trains, evaluates and exports; the process that comes to the point is killed there

  first     at the first time
  later     half-way through the times that an undisturbed run comes there
  recovery  when the coordinator starts again in the middle of the job

and started again. The job must end with the digests and the history of an undisturbed one. A point
that nobody comes to is NOT HIT, which is a failure. --quick: only the first time. --every: each time,
which takes long. Needs a build with failpoints (the preset dev); DISTILL_FAILPOINTS=list
build/dev/distilld shows the names.
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

mode=usual
case ${1-} in
--quick | --every)
    mode=${1#--}
    shift
    ;;
esac

# Points that this job does not come to, and where they are tested instead.
declare -A ELSEWHERE=([bank.doomed]=test_storage [keep.drop]=test_storage
    [hook.tell]=test_hooks [hook.told]=test_hooks)

DISTILL_FAILPOINTS=list "$BUILD/distilld" >"$DIR/list" 2>/dev/null &&
    grep -q '^file.write ' "$DIR/list" || fail "$BUILD/distilld has no failpoints; build the preset dev"
mapfile -t all < <(awk '{ print $1 }' "$DIR/list")
for name in "$@"; do one_of "$name" "${all[@]}" || no_such failpoint "$name"; done
[ $# -gt 0 ] || set -- "${all[@]}"

# ---- one process of each kind, armed with DISTILL_FAILPOINTS when ARMED[kind] says so

declare -A ARMED=()
KEY=one-job

launch() { # distilld | w1 | w2
    local armed=(env DISTILL_FAILPOINTS="${ARMED[$1]-}")
    if [ "$1" != distilld ]; then
        AROUND_WORKER=("${armed[@]}")
        worker "$1"
        return
    fi
    # Not by `coordinator`, which takes an early end for a failure.
    "${armed[@]}" "$BUILD/distilld" --state-dir "$DIR/state" --listen "$DISTILL_SERVER" \
        --port-file "$DIR/port" --heartbeat-ms 200 --lease-ms 4000 >>"$DIR/distilld.log" 2>&1 &
    PIDS[distilld]=$!
}

launch_submit() {
    env DISTILL_FAILPOINTS="${ARMED[submit]-}" "$BUILD/distill" submit "$DIR/job.yaml" -q --key $KEY \
        >"$DIR/job" 2>>"$DIR/submit.log" &
    PIDS[submit]=$!
}

# revive: starts again, unarmed, whoever was killed; DEATHS counts them. Anything but a kill is a failure.
DEATHS=0
revive() {
    local what pid rc
    for what in "${!PIDS[@]}"; do
        pid=${PIDS[$what]}
        ! kill -0 "$pid" 2>/dev/null || continue
        rc=0
        wait "$pid" 2>/dev/null || rc=$?
        unset "PIDS[$what]"
        if [ "$what" = submit ] && [ $rc -eq 0 ]; then continue; fi
        # A client whose coordinator went away tells its user to ask again with the same key.
        if [ "$what" = submit ] && { [ $rc -eq 69 ] || [ $rc -eq 75 ]; }; then
            launch_submit
            continue
        fi
        [ $rc -eq 137 ] || fail "$what ended with $rc"
        DEATHS=$((DEATHS + 1))
        ARMED[$what]=${AFTER[$what]-}
        if [ "$what" = submit ]; then launch_submit; else launch "$what"; fi
    done
}
declare -A AFTER=()

# until COMMAND...: revives until it succeeds.
until_true() {
    for _ in $(seq 1200); do
        revive
        if "$@" 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    fail "waited 2 minutes and more for: $*"
}
submitted() { [ -z "${PIDS[submit]-}" ] && [ -s "$DIR/job" ]; }
finished() { [[ $(state_of "$(cat "$DIR/job")") =~ ^(succeeded|failed|cancelled)$ ]]; }
committed() { [ "$(stage_field "$(cat "$DIR/job")" "$1" committed)" -ge "$2" ]; }

# run_job [recovery]: from nothing to the end; with `recovery` the coordinator is killed on the way, and
# the next one is armed with $AT_RESTART.
run_job() {
    DISTILL_SERVER=127.0.0.1:$(free_port)
    export DISTILL_SERVER
    launch distilld
    launch w1
    launch w2
    launch_submit
    until_true submitted
    if [ "${1-}" = recovery ]; then
        until_true committed distill 5
        kill -KILL "${PIDS[distilld]}"
        wait "${PIDS[distilld]}" 2>/dev/null || true
        ARMED[distilld]=${AT_RESTART-}
        DEATHS=0
        launch distilld
    fi
    until_true finished
    job=$(cat "$DIR/job")
    [ "$(state_of "$job")" = succeeded ] || fail "the job did not succeed"
    [ "$(distill jobs -q | wc -l)" -eq 1 ] || fail "one key made several jobs: $(distill jobs -q)"
}

# stop_all: in good order, and nothing half-made stays.
stop_all() {
    local what left
    for what in w1 w2 distilld; do
        kill -0 "${PIDS[$what]}" 2>/dev/null || fail "$what died after the job"
        stop "$what"
    done
    left=$(find "$DIR/state" -name '*.tmp-*' -o -name '*.part' | head -n 3)
    [ -z "$left" ] || fail "left behind: $left"
}

# ---- what an undisturbed run comes to

# counts [recovery]: runs with every point told, and notes "NAME KIND TIMES" in the parent's folder.
counts() {
    local out=${WANT%/want}/hits${1:+-$1} what
    for what in distilld w1 w2 submit; do ARMED[$what]='*=delay:0'; done
    AT_RESTART='*=delay:0'
    run_job "$@"
    if [ $# -eq 0 ]; then undisturbed "$job"; else same "$job"; fi
    stop_all
    for what in distilld w1 w2 submit; do
        local log=$DIR/worker-$what.log
        [ "$what" != distilld ] || log=$DIR/distilld.log
        [ "$what" != submit ] || log=$DIR/submit.log
        if [ "$what" = distilld ] && [ $# -gt 0 ]; then # the second coordinator's alone
            awk '/failpoint start.locked hit 1:/ { n++ } n > 1' "$log" >"$DIR/second"
            log=$DIR/second
        fi
        { grep -aoE '^failpoint [a-z.]+ hit [0-9]+' "$log" || true; } |
            awk -v who="$what" '{ if ($4 > n[$2]) n[$2] = $4 } END { for (k in n) print k, who, n[k] }'
    done >"$out"
}

# killed NAME WHO N [recovery]
killed() {
    local name=$1 who=$2 n=$3
    if [ $# -eq 4 ] && [ "$who" = distilld ]; then
        AT_RESTART=$name=kill@$n
    else
        ARMED[$who]=$name=kill@$n
    fi
    run_job "${@:4}"
    [ $DEATHS -gt 0 ] || fail "nobody was killed"
    same "$job" "$who killed at $name, time $n"
    stop_all
}

hits() { awk -v name="$2" -v who="$3" '$1 == name && $2 == who { print $3 }' "$DIR/hits$1"; }

# ---- data, the weights that the job uploads, the undisturbed runs

fault_data
first_job() {
    cluster 2
    local job
    job=$(submit)
    ended "$job"
    distill fetch "$job" student.safetensors -O "$DIR/out" >/dev/null
    cp "$DIR"/out/student.safetensors "${WANT%/want}/start.safetensors"
}
case_of "weights to start from" first_job
sed -i 's/^student: .*/student: {model: shallow_cnn, weights: start.safetensors}/; s/^  epochs: 2/  epochs: 3/' "$DIR/job.yaml"
case_of undisturbed counts
: >"$DIR/hits-recovery"
[ $mode = quick ] || case_of "coordinator killed" counts recovery
[ $FAILED -eq 0 ] || { table_end; exit 1; }

for name in "$@"; do
    hit=no
    for who in distilld w1 submit; do
        n=$(hits '' "$name" $who)
        again=$(hits -recovery "$name" $who)
        if [ -n "$n" ]; then
            hit=yes
            case_of "$name $who first" killed "$name" $who 1
            case $mode in
            usual) later=$((n > 1 ? n / 2 + 1 : 0)) last=$later ;;
            every) later=2 last=$n ;;
            quick) later=0 last=0 ;;
            esac
            for ((time = later; time > 0 && time <= last; time++)); do
                case_of "$name $who $time of $n" killed "$name" $who $time
            done
        fi
        # A worker lives through the coordinator's restart: its times go on from those before.
        if [ $who = distilld ] && [ -n "$again" ] && { [ -z "$n" ] || [ $mode != quick ]; }; then
            hit=yes
            case_of "$name $who recovery" killed "$name" $who 1 recovery
        elif [ $who = w1 ] && [ -n "$again" ] && [ -z "$n" ]; then
            hit=yes
            case_of "$name $who recovery" killed "$name" $who 1 recovery
        fi
    done
    if [ $hit = no ]; then
        CASES=$((CASES + 1))
        [ -n "${ELSEWHERE[$name]-}" ] || FAILED=$((FAILED + 1))
        printf "%-${TABLE_WIDTH}s %-7s %5s  %s\n" "$name" "NOT HIT" - "${ELSEWHERE[$name]-}"
    fi
done
table_end
