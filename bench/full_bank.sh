#!/usr/bin/env bash
# What a teacher costs once the bank holds its logits: images a second of distillation steps beside those of the
# from-scratch twin, in the same jobs on the same workers, stage after stage. Prints one JSON line with the medians.
#
#   bench/full_bank.sh [--runs N] [--build DIR] [--size N] [--train N] [--epochs N]
#
# Five runs of the report's student at 224x224, batch 64, 1024 training pictures in two augmented views, by
# default: photographs of $DISTILL_DATA/flowers if that is set, drawn ones otherwise. Two workers of one thread.
# Only steps count: the clock runs from the end of the first epoch to the end of the last, and there is next to
# nothing to validate on.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
runs=5 build=build/release size=224 train=1024 epochs=4
while (($#)); do
    case $1 in
    --runs) runs=$2 ;;
    --build) build=$2 ;;
    --size) size=$2 ;;
    --train) train=$2 ;;
    --epochs) epochs=$2 ;;
    *) usage ;;
    esac
    shift 2
done
root=$dir
if [[ -n ${DISTILL_DATA:-} ]]; then
    root=$DISTILL_DATA
else
    "$build/distill" data make flowers "$dir/flowers" --size "$size" --train $((train + 1000)) --val 5 2>/dev/null >&2
fi
coordinator
for i in 1 2; do
    "$build/distill-worker" --name "w$i" --threads 1 --data-root "$root" 2>"$dir/w$i.log" &
done

cat >"$dir/job.yaml" <<YAML
name: full-bank
data:
  labelled: {path: flowers, train: train.txt, val_share: 0.005, classes: classes.txt, size: $size, max_train: $train}
  augment: [flip, {crop: {pad: 6}}]
teacher: {model: mobilenet_v2, fine_tune: {epochs: 0}}
student: {model: shallow_cnn}
distill:
  loss: {kd: 0.9, ce: 0.1, temperature: 5}
  optimizer: {name: adam, lr: 1e-3}
  epochs: $epochs
  batch: 64
  slots: 8
  views: 2
scratch: {optimizer: {name: adam, lr: 1e-3}}
cluster: {min_workers: 2, max_workers: 2, checkpoint_every: 1000000}
YAML

# run FLAGS...: one job; prints its id.
run() {
    local job
    job=$("$build/distill" submit "$dir/job.yaml" -q "$@")
    "$build/distill" wait "$job" --timeout 1h >/dev/null 2>&1 || { "$build/distill" logs "$job" >&2; exit 1; }
    printf '%s\n' "$job"
}

run --set distill.epochs=2 --set scratch.epochs=0 >/dev/null # fills the bank
for ((i = 1; i <= runs; i++)); do
    job=$(run)
    "$build/distill" show "$job" -o json >"$dir/show"
    "$build/distill" events "$job" -o json >"$dir/events"
    python3 - "$dir/show" "$dir/events" "$train" "$epochs" <<'PY' | tee -a "$dir/rates" >&2
import datetime, json, sys
show, events, train, epochs = json.load(open(sys.argv[1])), map(json.loads, open(sys.argv[2])), *map(int, sys.argv[3:])
distill = next(s for s in show["stages"] if s["name"] == "distill")
assert distill["teacher_forwards"] == 0 and distill["bank_hits"] > 0, "the bank is not full"
ends = {"distill": {}, "scratch": {}}
for e in events:
    if e["kind"] == "epoch" and e["data"]["stage"] in ends:
        at = datetime.datetime.fromisoformat(e["time"].replace("Z", "+00:00")).timestamp()
        ends[e["data"]["stage"]][e["data"]["epoch"]] = at
print(*(train * (epochs - 1) / (ends[s][epochs] - ends[s][1]) for s in ("distill", "scratch")))
PY
done
python3 - "$dir/rates" <<'PY'
import json, statistics, sys
rows = [tuple(map(float, line.split())) for line in open(sys.argv[1])]
ours, peer = (statistics.median(column) for column in zip(*rows))
print(json.dumps({"bench": "full-bank-step", "ours": round(ours, 2), "peer": round(peer, 2), "unit": "images/s",
                  "ratio": round(ours / peer, 3), "target": 0.95, "met": ours / peer >= 0.95,
                  "limit": round(peer, 2)}), flush=True)
PY
