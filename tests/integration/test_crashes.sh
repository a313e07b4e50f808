#!/usr/bin/env bash
# Killed and stopped processes change nothing: the job goes on without user action, to the same digest.
. tests/integration/cluster.sh

small_cluster a b
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
distill wait "$job" --timeout 10m
want=$(digests "$job")

note "kill -9 of a worker in the teacher stage and in the distill stage"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
await_steps "$job" teacher 2
stop b KILL
await_steps "$job" distill 5
worker c
await_steps "$job" distill 8
stop a KILL
distill wait "$job" --timeout 10m
[ "$(digests "$job")" = "$want" ] || fail "digests differ after killed workers: $(digests "$job"), $want"
has_event "$job" 'worker lost' || fail "the lost worker is not among the events"

note "kill -9 of the coordinator, and a stop in good order"
worker d
await_workers 2
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
await_steps "$job" distill 5
stop distilld KILL
coordinator
await_steps "$job" distill 12
stop distilld
coordinator
distill wait "$job" --timeout 10m
[ "$(digests "$job")" = "$want" ] || fail "digests differ after restarts: $(digests "$job"), $want"

note "a worker that hangs is left out after its lease, and comes back"
await_workers 2
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
await_steps "$job" distill 3
kill -STOP "${PIDS[d]}"
distill wait "$job" --timeout 10m
[ "$(digests "$job")" = "$want" ] || fail "digests differ after a hang: $(digests "$job"), $want"
has_event "$job" 'worker lost: silent for' || fail "the silent worker is not among the events"
kill -CONT "${PIDS[d]}"
await_workers 2

note "a second coordinator on the same state folder is refused"
rc=0
"$BUILD/distilld" --state-dir "$DIR/state" --listen 127.0.0.1:0 >"$DIR/second.out" 2>&1 || rc=$?
[ $rc -eq 75 ] || fail "exit code $rc, 75 was expected"
grep -q 'in use by another distilld' "$DIR/second.out" || fail "no clear message"
rc=0
"$BUILD/distilld" --state-dir "$DIR/other" --listen "$DISTILL_SERVER" >"$DIR/third.out" 2>&1 || rc=$?
[ $rc -eq 75 ] || fail "port taken: exit code $rc, 75 was expected"
