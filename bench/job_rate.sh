#!/usr/bin/env bash
# The rate of a real job: a coordinator and workers of one thread on loopback, the report's student at
# batch 64 with MobileNetV2 as its teacher. Prints one JSON object: images_s, worker_mb (largest
# resident memory of a worker).
#
#   bench/job_rate.sh [--build DIR] [--workers N] [--clusters N] [--views N|fresh] [--epochs N]
#                     [--train N] [--size N] [--precision float32|int8] [--units]
#
# Two workers, one cluster, fresh views, 4 epochs of 512 pictures at 224x224 by default. With --views 1 all
# logits come from the bank after the first epoch. Several clusters run the same job side by side, with nothing
# in common, and images_s is their sum. --units: besides units_s, the same units on as many threads of one process
# that knows no network (kd-units). The clock runs over the second half of the epochs: in the first a worker
# meets pictures that it has not decoded yet. Each worker computes on a core of its own where there are enough.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release workers=2 clusters=1 views=fresh epochs=4 train=512 size=224 precision=float32 units=
while (($#)); do
    case $1 in
    --units)
        units=yes
        shift
        continue
        ;;
    --build) build=$2 ;;
    --workers) workers=$2 ;;
    --clusters) clusters=$2 ;;
    --views) views=$2 ;;
    --epochs) epochs=$2 ;;
    --train) train=$2 ;;
    --size) size=$2 ;;
    --precision) precision=$2 ;;
    *) usage ;;
    esac
    shift 2
done
"$build/distill" data make flowers "$dir/flowers" --size "$size" --train "$train" --val 5 2>/dev/null >&2
cat >"$dir/job.yaml" <<YAML
name: job-rate
data: {labelled: {path: flowers, train: train.txt, val: val.txt, classes: classes.txt, size: $size}}
teacher: {model: mobilenet_v2, fine_tune: {epochs: 0}, precision: $precision}
student: {model: shallow_cnn}
distill: {epochs: $epochs, batch: 64, slots: 8, views: $views, optimizer: {name: adam, lr: 1e-3}}
cluster: {min_workers: $workers, max_workers: $workers, checkpoint_every: 1000000}
YAML
pids=() core=0
for ((c = 1; c <= clusters; c++)); do
    "$build/distilld" --state-dir "$dir/state$c" --listen 127.0.0.1:0 --port-file "$dir/port$c" 2>"$dir/distilld$c.log" &
    until [[ -s $dir/port$c ]]; do sleep 0.1; done
    for ((i = 1; i <= workers; i++)); do
        on=(--threads 1)
        ((workers * clusters > $(nproc))) || on=(--cores $((core++)))
        "$build/distill-worker" --server "127.0.0.1:$(<"$dir/port$c")" --name "w$i" "${on[@]}" --data-root "$dir" \
            2>"$dir/worker$c.$i.log" &
        pids+=($!)
    done
done
# All at once: what one cluster does is measured while the others do the same.
for ((c = 1; c <= clusters; c++)); do
    "$build/distill" submit "$dir/job.yaml" -q --server "127.0.0.1:$(<"$dir/port$c")" >"$dir/job$c"
done
for ((c = 1; c <= clusters; c++)); do
    to=(--server "127.0.0.1:$(<"$dir/port$c")")
    "$build/distill" wait "$(<"$dir/job$c")" "${to[@]}" --timeout 1h >/dev/null 2>&1 ||
        { "$build/distill" logs "$(<"$dir/job$c")" "${to[@]}" >&2; exit 1; }
    "$build/distill" events "$(<"$dir/job$c")" "${to[@]}" -o json >"$dir/events$c"
done
for pid in "${pids[@]}"; do sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"; done >"$dir/memory"
kill "${pids[@]}"
wait "${pids[@]}" 2>/dev/null || true
[[ -z $units ]] || {
    "$build/distill" fetch "$(<"$dir/job1")" teacher.safetensors -O "$dir/out" --server "127.0.0.1:$(<"$dir/port1")" >/dev/null 2>&1
    units=$("$build/kd-units" "$dir/job.yaml" "$dir" "$dir/out/teacher.safetensors" "$workers")
}
python3 - "$train" "$epochs" "$units" "$dir/memory" "$dir"/events* <<'PY'
import datetime, json, sys
train, epochs, units, memory, rate = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], 0.0
first = epochs // 2
for path in sys.argv[5:]:
    ends = {}
    for e in map(json.loads, open(path)):
        if e["kind"] == "epoch" and e["data"]["stage"] == "distill":
            ends[e["data"]["epoch"]] = datetime.datetime.fromisoformat(e["time"].replace("Z", "+00:00")).timestamp()
    rate += train * (epochs - first) / (ends[epochs] - ends[first])
row = {"images_s": round(rate, 2), "worker_mb": round(max(map(int, open(memory))) / 1024, 1)}
print(json.dumps(row | ({"units_s": float(units)} if units else {})))
PY
