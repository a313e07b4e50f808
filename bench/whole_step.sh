#!/usr/bin/env bash
# Images a second of distillation steps with two workers of one thread each, the teacher run on every
# picture (fresh views), at 224x224 and batch 64. Prints one number. Peer: peer.py whole-step.
set -euo pipefail
BUILD=${1:-build/release}
DIR=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$DIR"' EXIT
"$BUILD/distill" data make flowers "$DIR/flowers" --size 224 --train 512 --val 5 --seed 1 2>/dev/null >&2
"$BUILD/distilld" --state-dir "$DIR/state" --listen 127.0.0.1:0 --port-file "$DIR/port" 2>/dev/null &
until [ -s "$DIR/port" ]; do sleep 0.1; done
DISTILL_SERVER=127.0.0.1:$(cat "$DIR/port")
export DISTILL_SERVER
for i in 1 2; do
    "$BUILD/distill-worker" --name "w$i" --threads 1 --data-root "$DIR" 2>/dev/null &
done
cat >"$DIR/job.yaml" <<'YAML'
name: whole-step
data: {labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, classes: classes.txt, size: 224}}
teacher:
  model: mobilenet_v2
  padding: torch
  fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-5}, batch_norm: frozen, slots: 8}
student: {model: shallow_cnn}
distill: {epochs: 2, batch: 64, slots: 8, views: fresh, optimizer: {name: adam, lr: 1e-3}}
cluster: {min_workers: 2, checkpoint_every: 1000}
YAML
job=$("$BUILD/distill" submit "$DIR/job.yaml" -q 2>/dev/null)
"$BUILD/distill" wait "$job" >/dev/null 2>&1
"$BUILD/distill" show "$job" -o json | python3 -c '
import json, sys
s = [s for s in json.load(sys.stdin)["stages"] if s["name"] == "distill"][0]
assert int(s["teacher_forwards"]) == 1024, s["teacher_forwards"]
print(1024 / float(s["seconds"]))'
