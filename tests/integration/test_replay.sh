#!/usr/bin/env bash
# A finished job is run again from what was recorded of it: the same digests, with the files that were uploaded
# for it, however the job file or the data folder's owner has moved on.
. tests/integration/cluster.sh
needs_grpc

replay() { call Submit "{\"key\": \"$2\", \"replay_job\": \"$1\"}" | pick 'd["job"]'; }

small_cluster a
first=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$first" --timeout 10m >/dev/null
distill fetch "$first" -O "$DIR" teacher.safetensors >/dev/null
sed 's/  fine_tune: .*/  weights: teacher.safetensors/' "$DIR/job.yaml" >"$DIR/loaded.yaml"
job=$(distill submit "$DIR/loaded.yaml" --set distill.loss.temperature=3 -q)
distill wait "$job" --timeout 10m >/dev/null
want=$(digests "$job")

note "the job file and its weights are gone, other workers do it, the coordinator is killed"
rm "$DIR/loaded.yaml" "$DIR/teacher.safetensors"
stop a
worker b 2
worker c
await_workers 2
again=$(replay "$job" once)
[ "$(replay "$job" once)" = "$again" ] || fail "a repeat made another job"
[ "$again" != "$job" ] || fail "it is the same job"
await_steps "$again" distill 2
stop distilld KILL
coordinator
distill wait "$again" --timeout 10m >/dev/null
[ "$(digests "$again")" = "$want" ] || fail "$(digests "$again") instead of $want"
call Get "{\"job\": \"$again\"}" >"$DIR/again"
call Get "{\"job\": \"$job\"}" >"$DIR/first"
[ "$(pick 'd["replayed"], d["continued"]' <"$DIR/again")" = "('$job', '')" ] || fail "$(pick 'd["replayed"], d["continued"]' <"$DIR/again")"
[ "$(pick 'd["replayed"]' <"$DIR/first")" = "" ] || fail "the first run is a replay"
for f in resolved text; do
    [ "$(pick "d['$f']" <"$DIR/again")" = "$(pick "d['$f']" <"$DIR/first")" ] || fail "another $f"
done
pick 'd["text"]' <"$DIR/again" | says 'weights: teacher.safetensors' || fail "the job file was not kept"
[ "$(stage_field "$again" teacher shared | sed 's/^None$//')" = "" ] || fail "a stage was taken over"

note "its file outlives the first run, and goes with the last job that names it"
[ "$(find "$DIR/state/blobs" -type f | wc -l)" -eq 1 ] || fail "not one blob"
call Remove "{\"job\": \"$job\"}" >/dev/null
third=$(replay "$again" twice)
distill wait "$third" --timeout 10m >/dev/null
[ "$(digests "$third")" = "$want" ] || fail "$(digests "$third") instead of $want"
call Remove "{\"job\": \"$again\"}" >/dev/null
[ "$(find "$DIR/state/blobs" -type f | wc -l)" -eq 1 ] || fail "the blob went too early"
call Remove "{\"job\": \"$third\"}" >/dev/null
[ "$(find "$DIR/state/blobs" -type f | wc -l)" -eq 0 ] || fail "the blob stays"
