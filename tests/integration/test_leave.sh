#!/usr/bin/env bash
# SIGTERM, as systemd, Kubernetes and Slurm send it: a worker finishes its units, hands its chunks over and goes.
. tests/integration/cluster.sh

gone() {
    local all
    all=$(distill workers -o json) || fail "the workers cannot be listed"
    ! says "\"$1\"" <<<"$all"
}
small_cluster a
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 -q)
distill wait "$job" --timeout 10m >/dev/null
want=$(digests "$job")

note "a worker is told to stop in the middle of a job"
worker b
worker c
await_workers 3
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 --set cluster.min_workers=2 -q)
await_steps "$job" distill 3
stop b
gone b || fail "b has ended, and the coordinator does not know it"
await_event "$job" 'was told to stop and finishes its units'
! has_event "$job" 'worker lost' || fail "it left without a word"
stop c # fewer than min_workers are left
await_event "$job" 'waiting for workers: 1 of at least 2'
worker d
distill wait "$job" --timeout 10m >/dev/null
[ "$(digests "$job")" = "$want" ] || fail "$(digests "$job") instead of $want"
[ "$(stage_field "$job" distill steps_redone)" = 0 ] || fail "steps were computed again"
grep -q 'worker left: worker=b' "$DIR/distilld.log" || fail "b did not leave in order"

note "idle, and while its coordinator is away: at once"
begun=$SECONDS
stop d
stop distilld KILL
sleep 0.5
stop a
[ $((SECONDS - begun)) -lt 10 ] || fail "they waited for something"

note "--drain-s 0 leaves without finishing"
coordinator
"$BUILD/distill-worker" --data-root "$DIR/data" --name e --threads 1 --drain-s 0 >>"$DIR/worker-e.log" 2>&1 &
PIDS[e]=$!
worker f
await_workers 2
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 -q)
await_steps "$job" distill 3
stop e
await_event "$job" 'worker lost'
distill wait "$job" --timeout 10m >/dev/null
[ "$(digests "$job")" = "$want" ] || fail "$(digests "$job") instead of $want"
