#!/usr/bin/env bash
# From submit to the first step and its evaluation on 5 pictures, on workers that have just worked for a job with the
# same teacher and data. Prints one JSON object: first_step_s, the median of the runs.
#
#   bench/first_step.sh [--build DIR] [--runs N] [--workers N] [--size N]
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release runs=5 workers=2 size=224
while (($#)); do
    case $1 in
    --build) build=$2 ;;
    --runs) runs=$2 ;;
    --workers) workers=$2 ;;
    --size) size=$2 ;;
    *) usage ;;
    esac
    shift 2
done
"$build/distill" data make flowers "$dir/flowers" --size "$size" --train 128 --val 5 2>/dev/null >&2
cat >"$dir/job.yaml" <<YAML
name: first-step
data: {labelled: {path: flowers, train: train.txt, val: val.txt, classes: classes.txt, size: $size}}
teacher: {model: mobilenet_v2, fine_tune: {epochs: 0}}
student: {model: shallow_cnn}
distill: {epochs: 1, batch: 64, slots: 8, views: 1, eval_every: 1, optimizer: {name: adam, lr: 1e-3}}
cluster: {min_workers: $workers, max_workers: $workers}
YAML
coordinator
for ((i = 1; i <= workers; i++)); do
    "$build/distill-worker" --name "w$i" --threads 1 --data-root "$dir" 2>"$dir/worker$i.log" &
done
python3 - "$build/distill" "$dir/job.yaml" "$runs" <<'PY'
import json, statistics, subprocess, sys, time
distill, job, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
took = []
for run in range(runs + 1):
    begun = time.monotonic()
    watch = subprocess.Popen([distill, "submit", job, "--set", f"distill.optimizer.lr={1e-3 + run * 1e-6}", "--watch",
                              "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    first = None
    for line in watch.stdout:
        event = json.loads(line)
        data = event.get("data") or {}
        if first is None and event.get("kind") == "epoch" and data["stage"] == "distill" and data["step"] >= 1:
            first = time.monotonic() - begun
    if watch.wait() != 0 or first is None:
        sys.exit("first_step: the job failed, or its first step was not seen")
    took.append(first)
print(json.dumps({"first_step_s": round(statistics.median(took[1:]), 3)}))
PY
