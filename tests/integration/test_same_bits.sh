#!/usr/bin/env bash
# One job, one digest: 1 to 4 workers, other thread counts, each on a coordinator of its own.
. tests/integration/cluster.sh

run() { # run LABEL THREADS...: one worker for each thread count
    local label=$1; shift
    DISTILL_SERVER=
    coordinator "$DIR/state-$label"
    local i=0 t
    for t in "$@"; do i=$((i + 1)); worker "$label-$i" "$t"; done
    await_workers $#
    local job
    job=$(distill submit "$DIR/job.yaml" --set cluster.min_workers=$# -q)
    distill wait "$job" --timeout 10m
    digests "$job" >"$DIR/digests-$label"
    echo "$label: $(cat "$DIR/digests-$label")"
    for i in $(seq $#); do stop "$label-$i"; done
    stop distilld
}

small_data
small_job >"$DIR/job.yaml"
run one 1
[ "$(wc -w <"$DIR/digests-one")" -eq 3 ] || fail "not three digests"
run one_two_threads 2
run two 1 1
run three 1 2 1
run four 1 1 1 1
for f in "$DIR"/digests-*; do
    cmp -s "$f" "$DIR/digests-one" || fail "$(basename "$f") differs from one worker's digests"
done
