#!/usr/bin/env bash
# A worker that was cut off while its job ended still holds that job; it is given another one without having been
# released, takes over units of a slow member there, and the job goes on.
LEASE_MS=1000
. tests/integration/cluster.sh

submit() { distill submit "$DIR/job.yaml" -q "$@"; }
slow_of() { distill workers -o json | pick "next(w[\"slow\"] for w in d[\"workers\"] if w[\"name\"] == \"$1\")"; }
working() { distill workers -o json | pick "next((w[\"job\"] for w in d[\"workers\"] if w[\"name\"] == \"$1\"), \"\")"; }

small_data
small_job >"$DIR/job.yaml"
long=(--set distill.epochs=40 --set cluster.checkpoint_every=4)
coordinator
worker a
await_workers 1
job=$(submit "${long[@]}")
distill wait "$job" --timeout 10m >/dev/null
want=$(digests "$job")

worker b
await_workers 2
first=$(submit "${long[@]}")
await_steps "$first" distill 5
kill -STOP "${PIDS[b]}"
sleep 1.5
distill scale "$first" --max 1 >/dev/null
kill -CONT "${PIDS[b]}" # it is there again, and the job has no work for it
distill wait "$first" --timeout 2m >/dev/null
second=$(submit "${long[@]}")
for _ in $(seq 300); do
    [ "$(working b)" != "$second" ] || break
    sleep 0.1
done
[ "$(working b)" = "$second" ] || fail "b does not work for the second job"

note "a stands still for less than its lease, again and again: b is given its units"
for _ in $(seq 20); do
    kill -STOP "${PIDS[a]}"
    sleep 0.6
    kill -CONT "${PIDS[a]}"
    [ "$(slow_of a)" -eq 0 ] || break
    sleep 0.2
done
[ "$(slow_of a)" -gt 0 ] || fail "nobody was given a unit of a"
distill wait "$second" --timeout 1m >/dev/null || fail "the job does not end"
[ "$(digests "$second")" = "$want" ] || fail "other digests: $(digests "$second") instead of $want"
