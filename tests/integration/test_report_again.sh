#!/usr/bin/env bash
# docs/report/run.sh: every experiment from one command, the table of all of them, nothing done twice, and a stop
# in the middle. On drawn pictures, with a MobileNetV2 that knows nothing in place of ImageNet's.
. tests/integration/cluster.sh

mkdir -p "$DIR/data/weights"
distill data make flowers "$DIR/data/flowers" --size 64 --train 64 --val 20 --seed 5
coordinator
worker one
cat >"$DIR/weights.yaml" <<YAML
name: weights
data: {labelled: {path: flowers, train: train.txt, val: val.txt, size: 64, max_train: 8}}
student: {model: mobilenet_v2, padding: tf, preprocess: symmetric}
distill: {loss: {kd: 0, ce: 1}, epochs: 0}
YAML
job=$(distill submit "$DIR/weights.yaml" -q)
distill wait "$job" --timeout 10m
distill fetch "$job" -O "$DIR/made" student.safetensors
mv "$DIR/made/student.safetensors" "$DIR/data/weights/mobilenet_v2.safetensors"
stop one
stop distilld
chmod -R a-w "$DIR/data"

export DISTILL_DATA=$DIR/data
report=(bash docs/report/run.sh --build "$BUILD" --out "$DIR/out" --size 64 --set distill.epochs=1
    --set distill.optimizer.warmup=0
    --set data.labelled.max_train=32)
again() { "${report[@]}" >"$DIR/again.txt" 2>"$DIR/again.log"; }
note "stopped in the middle"
"${report[@]}" >"$DIR/again.txt" 2>"$DIR/again.log" &
PIDS[report]=$!
for _ in $(seq 1200); do
    grep -q '^== kd' "$DIR/again.txt" && break
    sleep 0.1
done
kill -TERM "${PIDS[report]}"
rc=0
wait "${PIDS[report]}" || rc=$?
unset 'PIDS[report]'
[ $rc -eq 143 ] || fail "an interrupted report ends with $rc"

note "and the rest of it"
again || fail "the report: $(tail -n 5 "$DIR/again.log")"
grep -q '^== teacher: done already' "$DIR/again.txt" || fail "the teacher was trained twice"
bash docs/report/run.sh --list >"$DIR/names"
[ "$(wc -l <"$DIR/names")" -ge 13 ] || fail "not all experiments"
while read -r name; do
    grep -q "^| $name" "$DIR/out/table.md" || fail "$name is not in the table"
    [ -s "$DIR/out/$name.html" ] || fail "there is no page of $name"
    [ -e "docs/report/$name.yaml" ] || fail "$name has no job file"
done <"$DIR/names"
[ "$(grep -c '^| temperature-sweep' "$DIR/out/table.md")" -eq 4 ] || fail "four temperatures"
grep -q '^| augmentation .*| 73.68 / 81.58 (38) |' "$DIR/out/table.md" || fail "the report's figures are not beside ours"
python3 - "$DIR/out" <<'PY' || fail "results"
import json, sys
result = lambda name: json.load(open(f"{sys.argv[1]}/results/{name}/result.json"))
teacher = result("teacher")["student"]["digest"]
for name in ("kd", "weighted", "mse", "augmentation", "unlabelled"):
    assert result(name)["teacher"]["digest"] == teacher, name
assert result("unlabelled")["data"]["train"] == 32
# The student alone and the twin of another job are the same run.
assert result("scratch")["student"]["digest"] == result("weighted")["scratch"]["digest"]
assert len({result(n)["student"]["digest"] for n in ("kd", "weighted", "weighted-equal", "mse", "scratch")}) == 5
PY

note "nothing is left to do"
again || fail "a third time"
[ "$(grep -c 'done already' "$DIR/again.txt")" -eq "$(wc -l <"$DIR/names")" ] || fail "something ran again"
chmod -R u+w "$DIR/data"
cp "$DIR"/out/logs/*.log "$DIR"
