#!/usr/bin/env bash
# `distill predict` on a job's own student: the accuracy over the validation split is the one that the job
# reports, whatever the number of threads.
. tests/integration/cluster.sh

small_cluster one
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

# job_figures MODEL GOT NETWORK: `distill evaluate` says what the job's evaluate stage does, in the folder GOT.
job_figures() {
    distill evaluate "$1" "$DIR/data/flowers" --list val.txt -o json >"$DIR/evaluate.json"
    python3 - "$DIR/evaluate.json" "$2/evaluation.json" "$3" <<'PY' || fail "$1: other figures than the job's"
import json, sys
have, job = (json.load(open(p)) for p in sys.argv[1:3])
want = next(n for n in job["networks"] if n["name"] == sys.argv[3] and n["split"] == "val")
for key in ("samples", "correct", "top5", "confusion"):
    assert have[key] == want[key], (key, have[key], want[key])
for key in ("loss", "ece"):
    assert abs(have[key] - want[key]) < 1e-8, (key, have[key], want[key])
assert [c["class"] for c in have["per_class"]] == job["classes"]
assert [(c["correct"], c["samples"]) for c in have["per_class"]] == [
    (c["correct"], c["samples"]) for c in want["per_class"]]
PY
}
note "evaluate: the figures of the job's evaluate stage"
for model in student.safetensors student.onnx; do
    job_figures "$DIR/got/$model" "$DIR/got" student
done

note "inspect: where the file comes from"
for model in student.safetensors student.onnx; do
    distill inspect "$DIR/got/$model" -o json >"$DIR/inspect.json"
    python3 - "$DIR/inspect.json" "$job" "$DIR/got/result.json" <<'PY' || fail "$model: metadata"
import json, sys
o = json.load(open(sys.argv[1]))
result = json.load(open(sys.argv[3]))
meta = o["metadata"]
assert meta["distilld.job"] == sys.argv[2], meta
assert meta["distilld.digest"] == result["student"]["digest"], meta
assert meta["distilld.data"] == result["data"]["digest"], meta
assert meta["distilld.teacher"].startswith("mobilenet_v2 "), meta
assert meta["channels"] == "rgb" and meta["mean"] and len(meta["classes"]) == 5, meta
PY
done

note "8 bits, and C"
distill quantize "$DIR/got/student.safetensors" --data "$DIR/data/flowers/images" -O "$DIR/q.safetensors"
distill quantize "$DIR/got/student.safetensors" --data "$DIR/data/flowers/images" -O "$DIR/q.onnx"
for model in q.safetensors q.onnx; do
    distill evaluate "$DIR/$model" "$DIR/data/flowers" --list val.txt -o json >"$DIR/$model.json"
done
python3 - "$DIR/evaluate.json" "$DIR/q.safetensors.json" "$DIR/q.onnx.json" <<'PY' || fail "8 bits"
import json, sys
float32, ours, onnx = (json.load(open(p)) for p in sys.argv[1:4])
for key in ("correct", "loss", "confusion"):
    assert ours[key] == onnx[key], (key, ours[key], onnx[key])
assert abs(ours["correct"] - float32["correct"]) <= 2, (ours["correct"], float32["correct"])
PY
distill export "$DIR/q.safetensors" --format c -O "$DIR/student.c" --card "$DIR/card.md" --data "$DIR/data/flowers" --list val.txt
gcc -std=c99 -pedantic -Wall -Werror -c "$DIR/student.c" -o "$DIR/student.o" || fail "the C file does not compile"
grep -qF "$job" "$DIR/card.md" || fail "the card does not name the job"
grep -qF "| top-1 |" "$DIR/card.md" || fail "the card has no accuracy"

note "the job's figures of networks that see less than the job's views, which are smaller than the pictures"
less=$(distill submit "$DIR/job.yaml" -q --set data.labelled.size=28 --set teacher.size=24 --set student.size=20 \
    --set "compress=[{quantize: int8}]" --set "export=[safetensors, onnx]")
distill wait "$less" --timeout 10m
distill fetch "$less" -O "$DIR/less"
distill checkpoint get "$less" --step last -O "$DIR/less/last.safetensors"
for model in teacher.safetensors student.safetensors student.onnx compress.safetensors compress.onnx; do
    job_figures "$DIR/less/$model" "$DIR/less" "${model%%.*}"
done
job_figures "$DIR/less/last.safetensors" "$DIR/less" student
distill export "$DIR/less/student.safetensors" -f c -O "$DIR/less.c"
grep -qF 'each is squeezed into 28 x 28 pixels first' "$DIR/less.h" || fail "the header does not say what was squeezed"
