#!/usr/bin/env bash
# A dry run asks an idle worker to try the job: what it tells against what the job then takes, and every way in which
# there is no estimate. A trial changes no digest and is in no job's way.
. tests/integration/cluster.sh
needs_grpc

# Memory that a sanitizer keeps back is none of the worker's own.
AROUND_WORKER=(env ASAN_OPTIONS=exitcode=99:quarantine_size_mb=1)

trying() { # trying old|silent|odd: the foreign worker.
    : >"$DIR/foreign-said"
    /usr/bin/python3 tests/integration/trying_worker.py "$1" >"$DIR/foreign-said" 2>"$DIR/foreign.log" &
    PIDS[foreign]=$!
    await_workers 1
}
try_it() { call Submit "$(/usr/bin/python3 -c 'import json, sys
print(json.dumps({"dry_run": True, "trial": True, "text": open(sys.argv[1]).read()}))' "$DIR/job.yaml")"; }
seconds_since() { /usr/bin/python3 -c 'import sys, time; print(f"{time.time() - float(sys.argv[1]):.2f}")' "$1"; }
between() { /usr/bin/python3 -c 'import sys; a, x, b = map(float, sys.argv[1:]); sys.exit(not a <= x <= b)' "$@"; }
nobody_there() { [ "$(workers_there)" -eq 0 ]; }
asked() { [ "$(grep -c 'trial [1-9]' "$DIR/foreign-said")" -eq "$1" ]; }      # the foreign worker, N times
called_off() { [ "$(grep -c 'trial 0' "$DIR/foreign-said")" -eq "$1" ]; }
trials() { grep -c "a worker tries a job" "$DIR/distilld.log"; }
more_trials() { [ "$(trials)" -gt "$1" ]; }

small_data
small_job | sed 's/epochs: 2$/epochs: 20/' >"$DIR/job.yaml"
coordinator

note "nobody is there"
expect 75 "no worker is connected" distill estimate "$DIR/job.yaml"
expect 0 "no estimate: no worker is connected" distill submit -n "$DIR/job.yaml"

note "a worker that knows no trials, one that never answers, one whose figures cannot be"
trying old
expect 75 "the idle workers are of a version that tries no jobs" distill estimate "$DIR/job.yaml"
stop foreign KILL
await 10 nobody_there
trying silent
begun=$(date +%s.%N)
CALL_TIMEOUT=6 try_it | pick 'd["estimate"]["why"]' | says "foreign did not get done" || fail "it is not said who is silent"
between 3 "$(seconds_since "$begun")" 6 || fail "the answer did not come before the deadline"
await 10 called_off 1
CALL_TIMEOUT=1 try_it 2>&1 | pick 'd["estimate"]["why"]' | says "leaves no time" || fail "a deadline that is too near"
"$BUILD/distill" estimate "$DIR/job.yaml" & pid=$!
await 10 asked 2
kill $pid
wait $pid && fail "it was interrupted"
await 10 called_off 2
"$BUILD/distill" estimate "$DIR/job.yaml" >"$DIR/lost" 2>&1 & pid=$!
await 10 asked 3
expect 75 "every idle worker is trying another job" distill estimate "$DIR/job.yaml"
stop foreign KILL
wait $pid && fail "an estimate of a worker that is gone"
says "foreign, which was trying the job, was lost" <"$DIR/lost" || fail "$(cat "$DIR/lost")"
await 10 nobody_there
trying odd
distill estimate "$DIR/job.yaml" -o json >"$DIR/odd.json" || fail "$(cat "$DIR/odd.json")"
pick '[s["seconds"] for s in d["stages"]]' <"$DIR/odd.json" | says "[1000000000000.0, 0.0]" || fail "$(cat "$DIR/odd.json")"
stop foreign KILL
await 10 nobody_there

note "data that the worker does not have, a network in a file"
worker a
await_workers 1
expect 78 "worker a tried the job and says: " distill estimate "$DIR/job.yaml" --set data.labelled.path=elsewhere
for how in "" -q "-o json"; do
    expect 78 "elsewhere" distill submit -n "$DIR/job.yaml" --set data.labelled.path=elsewhere $how
done
echo "not looked at" >"$DIR/net.onnx"
distill estimate "$DIR/job.yaml" --set teacher='{model: onnx, weights: net.onnx, fine_tune: {epochs: 1}}' -o json >"$DIR/onnx.json"
pick '"ONNX" in d["stages"][0]["problem"], d["stages"][1]["note"], d["stages"][1]["seconds"] > 0' <"$DIR/onnx.json" |
    says "(True, 'without the time of teacher', True)" || fail "$(cat "$DIR/onnx.json")"

note "the quiet read the resolved job, which loads, programs the estimate besides"
before=$(trials)
distill submit -n -q "$DIR/job.yaml" >"$DIR/resolved.json"
distill submit -n -q "$DIR/resolved.json" | cmp - "$DIR/resolved.json" || fail "it does not load as what it is"
distill submit -n -o json "$DIR/job.yaml" >"$DIR/dry.json"
pick 'd["resolved"] == json.load(open("'"$DIR/resolved.json"'")), d["estimate"]["seconds"] > 0' <"$DIR/dry.json" |
    says "(True, True)" || fail "$(cat "$DIR/dry.json")"
[ "$(trials)" -eq $((before + 3)) ] || fail "no worker was asked"

note "a sweep, a part of what compress makes, a job that waits for workers"
cp "$DIR/job.yaml" "$DIR/sweep.yaml"
cat >>"$DIR/sweep.yaml" <<'YAML'
matrix: {distill.loss.temperature: [2, 4]}
compress: [{prune: {share: 0.5, epochs: 1}}, {quantize: {type: int8}}]
YAML
distill estimate "$DIR/sweep.yaml" --set cluster.min_workers=3 >"$DIR/out" || fail "$(cat "$DIR/out")"
for text in "the first of the sweep's 2 jobs" "on 3 workers of 1 thread" "it waits until 3 workers are there; now it could have 1" \
    "tune " "compress2 " "from what the student takes"; do
    says "$text" <"$DIR/out" || fail "no \"$text\": $(cat "$DIR/out")"
done

note "a job that comes while a worker tries another gets it at once, and its digests are those of a worker that tried none"
before=$(trials)
"$BUILD/distill" estimate "$DIR/job.yaml" >"$DIR/cut" 2>&1 & pid=$!
await 10 more_trials "$before"
begun=$(date +%s.%N)
job=$(distill submit "$DIR/job.yaml" -q)
await_steps "$job" teacher 1
first_step=$(seconds_since "$begun")
wait $pid && fail "the trial went on"
says "a was given a job before it had tried this one" <"$DIR/cut" || fail "$(cat "$DIR/cut")"
echo "the first step came after $first_step s"
expect 75 "every worker has a job" distill estimate "$DIR/job.yaml"
distill wait "$job" --timeout 5m >/dev/null
distill estimate "$DIR/job.yaml" >/dev/null || fail "a worker whose job has just ended tries none"
want=$(digests "$job")

note "the estimate, and what the job takes"
stop a
worker b
await_workers 1
distill estimate "$DIR/job.yaml" -o json >"$DIR/estimate.json"
distill estimate "$DIR/job.yaml"
begun=$(date +%s.%N)
job=$(distill submit "$DIR/job.yaml" -q)
most=0
while ! distill wait "$job" --timeout 0.2s >/dev/null 2>&1; do
    now=$(distill workers -o json | pick 'd["workers"][0]["resident_bytes"] or 0')
    most=$((now > most ? now : most))
done
took=$(seconds_since "$begun")
said=$(pick 'd["seconds"]' <"$DIR/estimate.json")
memory=$(pick 'd["memory_bytes"]' <"$DIR/estimate.json")
echo "time: $said s were said, it took $took s; memory: $memory B were said, it took $most B"
between "$(bc <<<"$took / 20")" "$said" "$(bc <<<"$took * 20")" || fail "the time is far off"
between $((most / 2)) "$memory" $((most * 2)) || fail "the memory is far off"
[ "$(digests "$job")" = "$want" ] || fail "a trial changed the digests: $(digests "$job"), $want"
[ "$(distill jobs -a -q | wc -l)" -eq 2 ] || fail "a trial was stored"

note "the worker dies, the coordinator stops: the call is answered"
for victim in b distilld; do
    [ $victim = b ] || { worker b; await_workers 1; }
    before=$(trials)
    "$BUILD/distill" estimate "$DIR/job.yaml" >"$DIR/out" 2>&1 & pid=$!
    await 10 more_trials "$before"
    if [ $victim = b ]; then stop b KILL; else stop distilld; fi
    wait $pid && fail "an estimate of $victim, which is gone"
    says "no estimate: " <"$DIR/out" || fail "$(cat "$DIR/out")"
done
