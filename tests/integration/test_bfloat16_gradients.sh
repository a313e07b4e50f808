#!/usr/bin/env bash
# Gradients that travel in bfloat16: half the bytes, and still one digest for any number of workers, through
# deaths of workers and of the coordinator, and when the job is computed again.
. tests/integration/cluster.sh

bytes() { # JOB: of gradients and sums in its distillation
    metrics | awk -v job="job_id=\"$1\",stage=\"distill\"" \
        '/^distill_net_bytes_total/ && index($0, job) && /kind="gradients"/ { n += $2 } END { printf "%d\n", n }'
}

small_data
small_job >"$DIR/job.yaml"
COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
coordinator
for w in a b c d; do worker "$w"; done
await_workers 4
note "one digest for 1 to 4 workers"
for n in 4 3 2 1; do
    job=$(distill submit "$DIR/job.yaml" --set cluster.gradients=bfloat16 --set distill.epochs=3 \
        --set cluster.min_workers=$n --set cluster.max_workers=$n -q)
    distill wait "$job" --timeout 10m >/dev/null
    got=$(digests "$job")
    echo "$n worker(s): $got"
    [ "$got" = "${want:=$got}" ] || fail "$n workers give $got, four gave $want"
done

note "half the bytes of the same job in float32, which comes out otherwise"
plain=$(distill submit "$DIR/job.yaml" --set distill.epochs=3 --set cluster.max_workers=1 -q)
distill wait "$plain" --timeout 10m >/dev/null
for i in 1 2 3; do
    [ "$(digests "$plain" | cut -d' ' -f$i)" != "$(cut -d' ' -f$i <<<"$want")" ] || fail "digest $i is the same"
done
all=$(bytes "$plain") half=$(bytes "$job")
[ "$all" -gt 0 ] && [ "$all" -eq $((2 * half)) ] || fail "$half bytes, $all in float32"

note "a worker and the coordinator are killed"
job=$(distill submit "$DIR/job.yaml" --set cluster.gradients=bfloat16 --set distill.epochs=3 -q)
await_steps "$job" teacher 2
stop b KILL
await_steps "$job" distill 4
stop distilld KILL
coordinator
await_steps "$job" distill 8
stop c KILL
distill wait "$job" --timeout 10m >/dev/null
[ "$(digests "$job")" = "$want" ] || fail "$(digests "$job") after the deaths, $want without them"
has_event "$job" 'worker lost' || fail "no worker was lost"

note "computed again"
distill verify "$job" --timeout 10m >"$DIR/verify.out" 2>&1 || fail "verify: $(cat "$DIR/verify.out")"
