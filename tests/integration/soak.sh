#!/usr/bin/env bash
# Not one of ctest's: ROUNDS jobs (20 by default), each with a coordinator killed and stopped and a worker
# killed at random moments; every job must end with the same digests.
#
#   KD_BUILD=build/dev tests/integration/soak.sh [ROUNDS]
. tests/integration/cluster.sh

pause() { sleep "$(awk -v r=$RANDOM -v most="$1" 'BEGIN { print r / 32768 * most }')"; }

small_data
small_job >"$DIR/job.yaml"
coordinator
worker a
worker b
await_workers 2
want=
rounds=${1:-20}
for i in $(seq "$rounds"); do
    job=$(distill submit "$DIR/job.yaml" -q)
    pause 2
    stop distilld KILL
    coordinator
    pause 2
    stop b KILL
    worker b
    pause 1
    stop distilld
    coordinator
    distill wait "$job" --timeout 2m >/dev/null || fail "round $i: exit code $?"
    got=$(digests "$job")
    want=${want:-$got}
    [ "$got" = "$want" ] || fail "round $i: $got instead of $want"
    echo "round $i of $rounds: $got"
done
