#!/usr/bin/env bash
# Where samples and teachers come from: shares of one folder, unlabelled pictures, several teachers, an
# ONNX teacher, a student that goes on from another job. The same bits for one worker and for three.
. tests/integration/cluster.sh

small_data
# A folder of class folders without lists, and pictures whose classes nobody knows.
mkdir -p "$DIR/data/plain" "$DIR/data/more"
cp -r "$DIR/data/flowers/images/." "$DIR/data/plain/"
distill data make flowers "$DIR/data/drawn" --size 32 --train 35 --val 5 --seed 77
i=0
find "$DIR/data/drawn/images" -name '*.jpg' | sort | while read -r f; do
    i=$((i + 1))
    cp "$f" "$DIR/data/more/$(printf %03d "$i").jpg"
done

common='
student: {model: shallow_cnn, size: 24}
distill:
  loss: {kd: 0.9, ce: 0.1, temperature: 3}
  optimizer: {name: adam, lr: 1e-3}
  epochs: 2
  batch: 16
  slots: 4
'
lists='  labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 32}'
teacher='teacher: {model: mlp, hidden: [32], fine_tune: {epochs: 3, optimizer: {name: adam, lr: 1e-3}}}'
{ echo "name: plain
data:
$lists
$teacher
$common"; } >"$DIR/plain.yaml"
{ echo "name: unlabelled
data:
$lists
  augment: [flip]
  unlabelled: {path: more, min_confidence: 0.2, per_class: 12}
$teacher
$common"; } >"$DIR/unlabelled.yaml"
{ echo "name: shares
data:
  labelled: {format: image-folder, path: plain, val_share: 0.2, test_share: 0.2, size: 32}
$teacher
scratch: {optimizer: {name: adam, lr: 1e-3}}
$common
export: [safetensors, onnx]"; } >"$DIR/shares.yaml"
for kind in logits probabilities; do
    echo "name: ensemble-$kind
data:
$lists
teacher:
  - {model: mlp, hidden: [32], weight: 2, fine_tune: {epochs: 3, optimizer: {name: adam, lr: 1e-3}}}
  - {model: lenet, fine_tune: {epochs: 3, optimizer: {name: adam, lr: 1e-3}}}
${common/loss: \{/ensemble: $kind
  loss: \{}" >"$DIR/ensemble-$kind.yaml"
done

jobs='plain unlabelled shares ensemble-logits ensemble-probabilities'
for n in 1 3; do
    DISTILL_SERVER=
    coordinator "$DIR/state-$n"
    for i in $(seq "$n"); do worker "n$n-$i"; done
    await_workers "$n"
    for j in $jobs; do
        job=$(distill submit "$DIR/$j.yaml" --set cluster.min_workers="$n" -q)
        distill wait "$job" --timeout 10m || fail "$j with $n worker(s)"
        echo "$(stage_field "$job" distill digest)" >"$DIR/$j-$n"
        echo "$job" >"$DIR/$j-$n.job"
    done
    # A job that begins with another's student, and has a file of its teacher from elsewhere.
    shares=$(cat "$DIR/shares-$n.job")
    distill fetch "$shares" -O "$DIR/out-$n" >/dev/null
    echo "name: chain
data:
  labelled: {format: image-folder, path: plain, val_share: 0.2, test_share: 0.2, size: 32}
teacher: {onnx: $DIR/out-$n/student.onnx, size: 24, preprocess: unit}
$common" >"$DIR/chain.yaml"
    job=$(distill submit "$DIR/chain.yaml" --set "student.weights=job:$shares" -q)
    distill wait "$job" --timeout 10m || fail "chain with $n worker(s)"
    stage_field "$job" distill digest >"$DIR/chain-$n"
    if [ "$n" -eq 3 ]; then
        python3 - "$DIR/out-3/result.json" "$DIR/out-3/evaluation.json" <<'PY' || fail "result of shares"
import json, sys
r, e = (json.load(open(p)) for p in sys.argv[1:3])
d = r["data"]
assert d["train"] + d["val"] + d["test"] == 127 and 20 <= d["val"] <= 30 and 20 <= d["test"] <= 30, d
for n in ("teacher", "student", "scratch"):
    assert r[n]["test"]["samples"] == d["test"], r[n]
    assert r[n]["test_best"]["samples"] == d["test"], r[n]
names = {(x["name"], x["split"]) for x in e["networks"]}
for n in ("teacher", "student", "student.best", "scratch", "scratch.best"):
    assert (n, "val") in names and (n, "test") in names, names
s = [x for x in e["networks"] if x["name"] == "student" and x["split"] == "val"][0]
assert s["correct"] == r["student"]["correct"] and abs(s["loss"] - r["student"]["loss"]) < 1e-5, (s, r["student"])
assert abs(s["agreement"] - r["student"]["agreement"]) < 1e-9 and abs(s["kl"] - r["student"]["kl"]) < 1e-5
assert sum(map(sum, s["confusion"])) == s["samples"] and sum(s["confusion"][k][k] for k in range(5)) == s["correct"]
p = [x for x in r["pairs"] if x["b"] == "scratch" and x["split"] == "test"][0]
assert p["both"] + p["only_a"] == r["student"]["test"]["correct"], p
assert 0 < len(e["samples"]) <= 24 and e["samples"][0]["picture"].startswith("data:image/jpeg;base64,/9j/")
assert len(e["samples"][0]["guesses"]["student"]) == 3
PY
        # The teacher labelled the pictures that nobody knows, once, and some joined each epoch.
        distill show "$(cat "$DIR/unlabelled-3.job")" -o json | python3 -c '
import json, sys
s = [s for s in json.load(sys.stdin)["stages"] if s["name"] == "distill"][0]
assert s["steps"] > 2 * 6, s["steps"]
assert s["teacher_forwards"] >= 90 + 37 + 40, s' || fail "unlabelled pictures"
        # An ensemble is more than its first teacher.
        cmp -s "$DIR/ensemble-logits-3" "$DIR/plain-3" && fail "the second teacher changes nothing"
        cmp -s "$DIR/ensemble-logits-3" "$DIR/ensemble-probabilities-3" && fail "both ensembles are the same"
    fi
    for i in $(seq "$n"); do stop "n$n-$i"; done
    stop distilld
done
for j in $jobs chain; do
    cmp -s "$DIR/$j-1" "$DIR/$j-3" || fail "$j: three workers give other bits than one"
done
