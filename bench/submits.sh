#!/usr/bin/env bash
# Durable submits a second: clients at once against a coordinator whose state lies on this disk. Prints
# one JSON object: jobs_s (acknowledged), syncs_s (what the disk does alone, one after another, in the
# same minute).
#
#   bench/submits.sh [--build DIR] [--calls N] [--parallel N] [--stored N]
#
# 4000 calls, 64 at once; --stored: jobs that are there before.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/release calls=4000 parallel=64 stored=0
while (($#)); do
    case $1 in
    --build) build=$2 ;;
    --calls) calls=$2 ;;
    --parallel) parallel=$2 ;;
    --stored) stored=$2 ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/job.yaml" <<YAML
name: many
data: {labelled: {path: flowers, train: train.txt, val: val.txt, classes: classes.txt, size: 224}}
teacher: {model: mobilenet_v2, fine_tune: {epochs: 0}}
student: {model: shallow_cnn}
distill: {epochs: 2, batch: 64, optimizer: {name: adam, lr: 1e-3}}
YAML
"$build/distilld" --state-dir "$dir/state" --listen 127.0.0.1:0 --port-file "$dir/port" 2>"$dir/log" &
until [[ -s $dir/port ]]; do sleep 0.1; done
to=127.0.0.1:$(<"$dir/port")
if ((stored > 0)); then
    sed 's/^name: .*/name: before/' "$dir/job.yaml" >"$dir/before.yaml"
    "$build/submit-rate" "$to" "$dir/before.yaml" "$stored" "$parallel" before >/dev/null
fi
rate=$("$build/submit-rate" "$to" "$dir/job.yaml" "$calls" "$parallel" many)
python3 - "$rate" "$dir" <<'PY'
import json, os, sys, time
fd = os.open(os.path.join(sys.argv[2], "syncs"), os.O_CREAT | os.O_WRONLY)
n, begun = 0, time.monotonic()
while time.monotonic() - begun < 2:
    os.pwrite(fd, bytes(4096), n % 256 * 4096)
    os.fdatasync(fd)
    n += 1
print(json.dumps({"jobs_s": float(sys.argv[1]), "syncs_s": round(n / (time.monotonic() - begun), 1)}))
PY
