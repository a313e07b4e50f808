#!/usr/bin/env bash
# The wire between workers and coordinator spoilt: what a fault breaks is refused or done again, and the
# job ends with the digest of an undisturbed one.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/proxy.sh [CASE...]

Runs the small job on two workers that reach the coordinator through kd-proxy, one case for each kind
of fault, and compares digests and history with an undisturbed run. Cases:

  delay flips duplicates reorders truncations resets stalls held-up held-down client everything
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

# workers_through FLAGS...: two workers behind a proxy whose faults begin when they have joined.
workers_through() {
    coordinator
    proxy proxy --off --seed 7 "$@"
    WORKER_SERVER=$PROXY
    workers 2
    proxy_turn proxy
}

# spoilt KIND FLAGS...: at least one such fault must have come.
spoilt() {
    local kind=$1 job n
    shift
    workers_through "$@"
    job=$(submit)
    ended "$job"
    stop proxy
    n=$(proxy_count proxy "$kind")
    [ "$kind" = connections ] || [ "$n" -gt 0 ] || fail "there were no $kind"
    same "$job" "$n $kind, steps redone: $(redone "$job")"
}

# held WAY SECONDS: in the middle of the job. Upwards the coordinator misses the heartbeats after the
# lease; downwards it is the worker that notices, when nobody has answered its pings (15 s).
held() {
    local job
    workers_through --one-way "$1"
    proxy_turn proxy
    job=$(submit)
    await_steps "$job" teacher 2
    proxy_turn proxy
    sleep "$2"
    has_event "$job" 'worker lost' || fail "nobody missed the workers"
    proxy_turn proxy
    ended "$job"
    same "$job" "both workers out for $2 s, steps redone: $(redone "$job")"
}

# again COMMAND...: as a script would, when the coordinator cannot be reached (69) or went away (75).
again() {
    local rc
    for _ in $(seq 40); do
        rc=0
        "$@" || rc=$?
        [ $rc -eq 69 ] || [ $rc -eq 75 ] || return $rc
    done
    return $rc
}

# client: the one who submits and waits is behind the proxy.
client() {
    local job n
    cluster 2
    proxy proxy --seed 3 --reset-every 15000 --delay 5 --jitter 20
    job=$(DISTILL_SERVER=$PROXY again submit --key through-the-proxy)
    DISTILL_SERVER=$PROXY again distill wait "$job" --timeout 2m
    for _ in $(seq 10); do DISTILL_SERVER=$PROXY again distill show "$job" >/dev/null; done
    [ "$(distill jobs -q | wc -l)" -eq 1 ] || fail "one key made several jobs"
    stop proxy
    n=$(proxy_count proxy resets)
    [ "$n" -gt 0 ] || fail "there were no resets"
    same "$job" "$n resets between client and coordinator"
}

run() {
    case $1 in
    delay) case_of delay spoilt connections --delay 5 --jitter 20 ;;
    flips) case_of flips spoilt flips --flip-every 4000000 ;;
    duplicates) case_of duplicates spoilt duplicates --duplicate-every 8000000 ;;
    reorders) case_of reorders spoilt reorders --reorder-every 8000000 ;;
    truncations) case_of truncations spoilt truncations --truncate-every 8000000 ;;
    resets) case_of resets spoilt resets --reset-every 8000000 ;;
    stalls) case_of stalls spoilt stalls --stall-every 8000000 --stall-ms 700 ;;
    held-up) case_of held-up held up 6 ;;
    held-down) case_of held-down held down 18 ;;
    client) case_of client client ;;
    everything)
        case_of everything spoilt flips --delay 1 --jitter 5 --flip-every 20000000 \
            --duplicate-every 20000000 --reorder-every 20000000 --truncate-every 20000000 \
            --reset-every 20000000 --stall-every 20000000 --stall-ms 300
        ;;
    *) no_such case "$1" "; --help shows all" ;;
    esac
}

fault_data
case_of undisturbed undisturbed_job
[ $# -gt 0 ] || set -- delay flips duplicates reorders truncations resets stalls held-up held-down client everything
for name in "$@"; do run "$name"; done
table_end
