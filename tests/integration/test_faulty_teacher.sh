#!/usr/bin/env bash
# Teachers elsewhere that misbehave: what passes changes no student, and what does not ends the job soon and says why.
. tests/integration/cluster.sh
needs_grpc

/usr/bin/python3 tests/integration/faulty_teacher.py "$BUILD/gen/inference_set.bin" "$DIR/teacher.port" 2>"$DIR/teacher.log" &
PIDS[teacher]=$!
await_port teacher "$DIR/teacher.port"
TEACHER=127.0.0.1:$(cat "$DIR/teacher.port")

cat >"$DIR/job.yaml" <<YAML
name: taught
seed: 3
data:
  labelled: {path: flowers, train: train.txt, val: val.txt, size: 32}
  augment: [flip, {crop: {pad: 2}}]
teacher: {kserve: "$TEACHER", served: good, preprocess: unit, pictures: 4, timeout: 1}
student: {model: cheap_cnn}
distill: {epochs: 2, batch: 16, slots: 4, views: fresh, optimizer: {name: adam, lr: 1e-3}}
YAML
# again: nothing is in the coordinator's bank any more.
again() {
    stop distilld
    rm -rf "$DIR/state"
    coordinator
    await_workers 2
}
taught_by() { # MODEL: its job's id, when it has succeeded
    local job
    job=$(distill submit "$DIR/job.yaml" --set teacher.served="$1" -q)
    distill wait "$job" --timeout 5m >/dev/null 2>&1 || fail "$1: $(distill show "$job")"
    echo "$job"
}
seconds() { # COMMAND...: that it takes
    local begin=$SECONDS
    "$@" >"$DIR/out"
    echo $((SECONDS - begin))
}

small_data
COORDINATOR_FLAGS=(--outside-teachers "$TEACHER")
coordinator
worker one 3
worker two 3
await_workers 2
note "a good one"
fair=$(seconds taught_by good)
good=$(stage_field "$(cat "$DIR/out")" distill digest)

# What passes: the same student, and no long pauses where there is room again soon.
for model in full slow passing; do
    again
    note "$model"
    took=$(seconds taught_by "$model")
    student=$(stage_field "$(cat "$DIR/out")" distill digest)
    [ "$student" = "$good" ] || fail "another student from $model"
    grep -qx "$model" "$DIR/teacher.log" || fail "$model met no fault"
    [ "$model" != full ] || [ "$took" -le $((3 * fair + 9)) ] || fail "$took s, and $fair where there is room"
done

fails() { # MODEL TEXT FLAGS...
    local model=$1 text=$2 job rc=0 said; shift 2
    note "$model"
    job=$(distill submit "$DIR/job.yaml" --set teacher.served="$model" "$@" -q)
    distill wait "$job" --timeout 2m >/dev/null 2>&1 || rc=$?
    [ $rc -eq 7 ] || fail "$model: exit code $rc: $(distill show "$job")"
    said=$(distill show "$job")
    says "$text" <<<"$said" || fail "$model: $said"
}
fails random "is not the teacher that it was"
fails canary "the same request was answered otherwise a second time"
fails nan "value 2 is not a finite number"
fails short "raw bytes, but its shape holds"
fails shape "its answer is FP32 [4, 6]; FP32 [4, 5] was expected"
fails type "its answer is INT64 [4, 5]; FP32 [4, 5] was expected"
fails name "its answer has no logits"
fails garbage "its answer"
fails huge "its answer is larger than logits of 4 pictures can be"
fails good "it takes no message as large as a request of 512 pictures" --set teacher.pictures=512
fails failing "it has failed 8 times, one after another: CUDA error"
fails cancelled "it has failed 8 times, one after another: nobody wants it"
fails refusing "no such thing"
fails failing "it is failing for longer than teacher.patience allows" --set teacher.patience=1
