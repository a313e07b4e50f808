#!/usr/bin/env bash
# Jobs one after another while workers and the coordinator are killed, stopped and cut off.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] [LEASE_MS=600] tests/fault/soak.sh MINUTES [--workers N] [--seed N] [--only-workers]

Every 15 s a random worker is killed, or stopped or cut off for up to 9 s; every 60 s the coordinator
is killed or stopped in good order, and started again (not with --only-workers). Every job must end
with the digests and the history of an undisturbed one, and the coordinator's memory, descriptors and
disk must be no more in the last quarter of the time than in the first. The last line tells the work
done again as the product tells it. Repeat a run with its --seed. The lease is three heart-beats.
END
}
LEASE_MS=${LEASE_MS:-600}
minutes='' n_workers=3 seed=$RANDOM only_workers=no
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --workers | --seed)
        [[ ${2-} =~ ^[0-9]{1,6}$ ]] || {
            echo "soak.sh: $1 wants a number" >&2
            exit 2
        }
        if [ "$1" = --seed ]; then seed=$2; else n_workers=$2; fi
        shift
        ;;
    --only-workers) only_workers=yes ;;
    *)
        if [ -n "$minutes" ] || ! [[ $1 =~ ^[1-9][0-9]{0,4}$ ]]; then
            usage >&2
            exit 2
        fi
        minutes=$1
        ;;
    esac
    shift
done
[ -n "$minutes" ] && [ "$n_workers" -ge 1 ] || {
    usage >&2
    exit 2
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh
# Freed memory kept back by the sanitizer would look like a leak.
ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=4
WANT=$DIR/want
TOLD=$DIR/told
RANDOM=$seed
echo "soak: $minutes min, $n_workers workers, seed $seed, only workers: $only_workers"

# ---- each worker behind a proxy of its own, which stands still to cut it off

join() {
    WORKER_SERVER=$(cat "$DIR/proxy-$1.address")
    worker "$1"
}
declare -A BACK=() # what is stopped, and when it goes on
strike_worker() {
    local w=w$((RANDOM % n_workers + 1)) what=$((RANDOM % 3)) time=$((RANDOM % 9 + 1))
    if [ -n "${BACK[$w]-}${BACK[proxy-$w]-}" ]; then return; fi
    case $what in
    0)
        note "$SECONDS s: kill $w"
        stop "$w" KILL
        join "$w"
        ;;
    1)
        note "$SECONDS s: stop $w for $time s"
        kill -STOP "${PIDS[$w]}"
        BACK[$w]=$((SECONDS + time))
        ;;
    2)
        note "$SECONDS s: cut $w off for $time s"
        kill -STOP "${PIDS[proxy-$w]}"
        BACK[proxy-$w]=$((SECONDS + time))
        ;;
    esac
    FAULTS=$((FAULTS + 1))
}
bring_back() {
    local p
    for p in "${!BACK[@]}"; do
        if [ "$SECONDS" -ge "${BACK[$p]}" ]; then
            kill -CONT "${PIDS[$p]}"
            unset "BACK[$p]"
        fi
    done
}
strike_coordinator() {
    if [ $((RANDOM % 2)) -eq 0 ]; then
        note "$SECONDS s: kill the coordinator"
        stop distilld KILL
    else
        note "$SECONDS s: stop the coordinator"
        stop distilld
    fi
    coordinator
    FAULTS=$((FAULTS + 1))
}
all_alive() {
    local p
    for p in "${!PIDS[@]}"; do
        kill -0 "${PIDS[$p]}" 2>/dev/null || fail "$p ended by itself"
    done
}

# ---- what the coordinator uses: seconds, KiB of memory, descriptors, KiB of disk

sample() {
    local pid=${PIDS[distilld]}
    echo "$SECONDS $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status") $(find "/proc/$pid/fd" -mindepth 1 | wc -l)" \
        "$(du -sk "$DIR/state" | cut -f 1)" >>"$DIR/samples"
}
# median COLUMN N: of N samples on standard input.
median() { awk -v c="$1" '{ print $c }' | sort -n | sed -n "$((($2 + 1) / 2))p"; }
# flat COLUMN NAME SLACK: the median of the last quarter is no more than a fifth, and SLACK, above the
# first's.
flat() {
    local column=$1 name=$2 slack=$3 n first last
    n=$(($(wc -l <"$DIR/samples") / 4))
    [ "$n" -ge 3 ] || fail "too few samples to compare"
    first=$(head -n "$n" "$DIR/samples" | median "$column" "$n")
    last=$(tail -n "$n" "$DIR/samples" | median "$column" "$n")
    echo "$name: $first in the first quarter, $last in the last"
    [ "$last" -le $((first + first / 5 + slack)) ] || fail "$name grows: $(awk -v c="$column" '{ printf "%s ", $c }' "$DIR/samples")"
}

# ---- the run

fault_data 20
coordinator
for i in $(seq "$n_workers"); do
    proxy "proxy-w$i"
    echo "$PROXY" >"$DIR/proxy-w$i.address"
    join "w$i"
done
await_workers "$n_workers"
job=$(submit --key quiet 2>/dev/null)
ended "$job" 5m >/dev/null
undisturbed "$job"
distill rm "$job" >/dev/null 2>&1

FAULTS=0
jobs=0 job='' begun=$SECONDS
next_worker=$((begun + 15)) next_coordinator=$((begun + 60)) next_sample=$begun
: >"$DIR/accounts"
while [ $SECONDS -lt $((begun + minutes * 60)) ] || [ -n "$job" ]; do
    bring_back
    all_alive
    if [ $SECONDS -lt $((begun + minutes * 60)) ]; then
        if [ $SECONDS -ge $next_worker ]; then
            strike_worker
            next_worker=$((next_worker + 15))
        fi
        if [ $only_workers = no ] && [ $SECONDS -ge $next_coordinator ]; then
            strike_coordinator
            next_coordinator=$((next_coordinator + 60))
        fi
    elif [ $SECONDS -gt $((begun + minutes * 60 + 180)) ]; then
        fail "the last job, $job, does not end"
    fi
    if [ $SECONDS -ge $next_sample ] && [ $jobs -gt 0 ]; then
        sample
        next_sample=$((SECONDS + 3))
    fi
    if [ -z "$job" ]; then
        job=$(submit --key "job-$jobs" 2>/dev/null) || job=''
        sleep 0.2
        continue
    fi
    case $(state_of "$job" 2>/dev/null || true) in
    succeeded)
        : >"$TOLD"
        same "$job" >"$DIR/differences" || { cat "$DIR/differences"; fail "job $job"; }
        cp "$DIR/show.json" "$DIR/account-$jobs.json"
        distill rm "$job" >/dev/null 2>&1 || fail "job $job cannot be removed"
        jobs=$((jobs + 1))
        job=''
        ;;
    failed | cancelled) fail "job $job: $(distill events "$job" | tail -n 5)" ;;
    *) sleep 0.5 ;;
    esac
done
[ $jobs -ge 1 ] || fail "no job has ended"
[ $FAULTS -ge 1 ] || fail "nothing was done to anybody"
flat 2 "memory in KiB" 16384
flat 3 "descriptors" 12
flat 4 "disk in KiB" 4096
/usr/bin/python3 - "$WANT" "$DIR"/account-*.json <<'END' | sed "s/^/$jobs jobs, $FAULTS faults, all digests and histories the same; /"
import json, sys
from datetime import datetime
want, *paths = sys.argv[1:]
images = json.load(open(want))["result"]["images"]
jobs = [json.load(open(p)) for p in paths]
stages = [s for j in jobs for s in j["stages"]]

def told(field):
    values = [s.get(field) for s in stages]
    return None if None in values else sum(values)

def share(field):
    lost, at = told(field), lambda t: datetime.fromisoformat(t.replace("Z", "+00:00")).timestamp()
    took = sum(at(j["finished"]) - at(j["started"]) for j in jobs)
    return "not told" if lost is None else f"{100 * (1 - lost / 1000 / took):.1f} %"

redone = told("steps_redone")
print("steps redone: %s of %d, samples lost: %d, effective training time under worker faults: %s, in all: %s" % (
    "not told" if redone is None else redone, sum(s["steps"] for s in stages),
    sum(images - j["result"]["images"] for j in jobs), share("lost_ms_worker_faults"), share("lost_ms_all")))
END
