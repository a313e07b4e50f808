#!/usr/bin/env bash
# The last worker goes: the job waits, says so, and goes on from the same step when another one comes.
set -euo pipefail

usage() {
    echo "Usage: [KD_BUILD=build/dev] tests/fault/no_workers.sh"
    echo "The only worker is killed in the middle of a stage; seconds later another one comes."
}
case ${1-} in
-h | --help | '') ;;
*)
    echo "no_workers.sh: unexpected argument \"$1\"; see --help" >&2
    exit 2
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

gone() {
    local job at now i
    cluster 1
    job=$(submit)
    await_steps "$job" distill 4
    stop w1 KILL
    await_event "$job" "waiting for workers: 0 of at least 1"
    distill show "$job" | says "waiting for workers: 0 of at least 1" || fail "distill show does not say it"
    [ "$(state_of "$job")" = running ] || fail "the job does not run any more"
    at=$(step_of "$job")
    sleep 1
    [ "$(step_of "$job")" = "$at" ] || fail "steps without workers"
    worker "$1"
    for i in $(seq 100); do
        now=$(step_of "$job")
        [ "$now" -ge "$at" ] || fail "went back from step $at to $now"
        [ "$now" -eq "$at" ] || break
        sleep 0.1
    done
    ended "$job"
    [ "$(redone "$job")" = 0 ] || fail "committed steps were computed again"
    same "$job" "waited at step $at"
}

fault_data 4
case_of undisturbed undisturbed_job 1
case_of "another worker" gone w2
case_of "the same name" gone w1
table_end
