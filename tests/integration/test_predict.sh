#!/usr/bin/env bash
# `distill predict` on a job's own student: the accuracy over the validation split is the one that the job
# reports, whatever the number of threads.
. tests/integration/cluster.sh

small_data
small_job >"$DIR/job.yaml"
coordinator
worker one
await_workers 1
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=3 --set "export=[safetensors, onnx]" -q)
distill wait "$job" --timeout 10m
distill fetch "$job" -O "$DIR/got"
cut -f 1 "$DIR/data/flowers/val.txt" | sed "s|^|$DIR/data/flowers/|" >"$DIR/val"
mapfile -t pictures <"$DIR/val"
for model in "$DIR/got/student.safetensors" "$DIR/got/student.onnx"; do
    note "$(basename "$model")"
    distill predict "$model" "${pictures[@]}" -o json --threads 1 >"$DIR/one.json"
    distill predict "$model" "${pictures[@]}" -o json --threads 3 >"$DIR/three.json"
    cmp "$DIR/one.json" "$DIR/three.json" || fail "other answers with three threads"
    python3 - "$DIR/one.json" "$DIR/data/flowers/val.txt" "$DIR/got/result.json" "$DIR/data/flowers" <<'PY' || fail "$model"
import json, os, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
names = [line.rstrip("\n").split("\t") for line in open(sys.argv[2])]
classes = open(os.path.join(sys.argv[4], "classes.txt")).read().split("\n")
want = json.load(open(sys.argv[3]))["student"]
assert len(rows) == len(names) == want["samples"], (len(rows), len(names), want)
right = 0
for row, name in zip(rows, names):
    label = int(name[1]) if len(name) > 1 else classes.index(name[0].split("/")[-2])
    right += row["guesses"][0]["index"] == label
    assert abs(sum(g["probability"] for g in row["guesses"])) <= 1.000001
assert right == want["correct"], (right, want["correct"])
PY
done

note "a folder, names of classes, a picture that is torn"
distill predict "$DIR/got/student.safetensors" "$DIR/data/flowers/images" -o csv --top 1 >"$DIR/all.csv"
[ "$(grep -c images/ "$DIR/all.csv")" -eq 127 ] || fail "not all pictures of the folder"
head -c 100 "${pictures[0]}" >"$DIR/torn.jpg"
rc=0; distill predict "$DIR/got/student.safetensors" "$DIR/torn.jpg" "${pictures[1]}" >"$DIR/out" 2>"$DIR/err" || rc=$?
[ $rc -eq 1 ] || fail "a torn picture: exit code $rc"
grep -qF torn.jpg "$DIR/err" || fail "the torn picture is not named"
grep -qF "$(basename "${pictures[1]}")" "$DIR/out" || fail "the good picture was left out"
