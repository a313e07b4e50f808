#!/usr/bin/env bash
# One job, one digest: whoever computes it, whatever happens on the way.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/matrix.sh

Runs the small job on 1, 2, 3, 4 and 8 workers, with 1, 2 and 3 threads each, with workers that join
and leave, and through kills, stops and restarts, and prints a table with the digest of each. Any
difference from the first, in digests or history, is a failure.
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

undisturbed_on() { # WORKERS THREADS
    local job
    cluster "$@"
    job=$(submit --set "cluster.min_workers=$1")
    ended "$job"
    if [ -e "$WANT" ]; then same "$job"; else undisturbed "$job"; fi
}

joining_and_leaving() { # 2 -> 8 -> 3
    local i job
    cluster 2
    job=$(submit)
    await_steps "$job" teacher 1
    for i in 3 4 5 6 7 8; do worker "w$i"; done
    await_workers 8
    await_steps "$job" distill 2
    for i in 1 2 4 6 8; do stop "w$i"; done
    ended "$job"
    same "$job" "2 -> 8 -> 3 workers, steps redone: $(redone "$job")"
}

worker_killed() {
    local job
    cluster 3
    job=$(submit)
    await_steps "$job" teacher 2
    stop w2 KILL
    await_steps "$job" distill 4
    stop w1 KILL
    ended "$job"
    has_event "$job" 'worker lost' || fail "nobody was missed"
    same "$job" "2 of 3 killed, steps redone: $(redone "$job")"
}

worker_stopped() {
    local job
    cluster 2
    job=$(submit)
    await_steps "$job" distill 2
    kill -STOP "${PIDS[w2]}"
    await_event "$job" 'worker lost'
    kill -CONT "${PIDS[w2]}"
    ended "$job"
    await_workers 2
    same "$job" "stopped past its lease, then back, steps redone: $(redone "$job")"
}

coordinator_killed() {
    local job
    cluster 2
    job=$(submit)
    await_steps "$job" teacher 2
    stop distilld KILL
    coordinator
    await_steps "$job" distill 4
    stop distilld KILL
    coordinator
    ended "$job"
    same "$job" "killed twice, steps redone: $(redone "$job")"
}

coordinator_stopped() {
    local job
    cluster 2
    job=$(submit)
    await_steps "$job" distill 2
    stop distilld
    coordinator
    ended "$job"
    same "$job" "stopped in good order, steps redone: $(redone "$job")"
}

all_killed() {
    local job
    cluster 2
    job=$(submit)
    await_steps "$job" distill 4
    kill_all
    coordinator
    worker w1
    worker w2
    ended "$job"
    same "$job" "coordinator and both workers killed at once, steps redone: $(redone "$job")"
}

# Stopped for 80 ms of every 100, so five times slower than the other.
slow_worker() {
    local job slow
    cluster 2
    slow=${PIDS[w2]}
    (
        while kill -STOP "$slow" 2>/dev/null; do
            sleep 0.08
            kill -CONT "$slow" 2>/dev/null || break
            sleep 0.02
        done
    ) &
    PIDS[slowing]=$!
    job=$(submit)
    ended "$job"
    kill "${PIDS[slowing]}"
    kill -CONT "$slow"
    same "$job" "one of two five times slower, steps redone: $(redone "$job")"
}

fault_data 4
for n in 1 2 3 4 8; do case_of "$n workers" undisturbed_on $n 1; done
for t in 2 3; do case_of "2 workers, $t threads" undisturbed_on 2 $t; done
case_of "workers join and leave" joining_and_leaving
case_of "workers killed" worker_killed
case_of "worker stopped" worker_stopped
case_of "coordinator killed" coordinator_killed
case_of "coordinator stopped" coordinator_stopped
case_of "all killed at once" all_killed
case_of "slow worker" slow_worker
table_end
