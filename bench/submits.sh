#!/usr/bin/env bash
# Durable submits a second: clients at once against a coordinator whose state lies on this disk. Prints
# one JSON object: jobs_s (acknowledged), syncs_s (what the disk does alone, one after another, in the
# same minute), most_s (those, each shared by all clients).
#
#   bench/submits.sh [--build DIR] [--calls N] [--parallel N] [--stored N]
#
# 4000 calls, 64 at once; --stored: jobs that are there before.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release calls=4000 parallel=64 stored=0
while (($#)); do
    case $1 in
    --build) build=$2 ;;
    --calls) calls=$2 ;;
    --parallel) parallel=$2 ;;
    --stored) stored=$2 ;;
    *) usage ;;
    esac
    shift 2
done
many_job >"$dir/job.yaml"
coordinator
if ((stored > 0)); then
    sed 's/^name: .*/name: before/' "$dir/job.yaml" >"$dir/before.yaml"
    "$build/submit-rate" "$DISTILL_SERVER" "$dir/before.yaml" "$stored" "$parallel" before >/dev/null
fi
rate=$("$build/submit-rate" "$DISTILL_SERVER" "$dir/job.yaml" "$calls" "$parallel" many)
python3 - "$rate" "$dir" "$parallel" <<'PY'
import json, os, sys, time
fd = os.open(os.path.join(sys.argv[2], "syncs"), os.O_CREAT | os.O_WRONLY)
n, begun = 0, time.monotonic()
while time.monotonic() - begun < 2:
    os.pwrite(fd, bytes(4096), n % 256 * 4096)
    os.fdatasync(fd)
    n += 1
syncs = n / (time.monotonic() - begun)
print(json.dumps({"jobs_s": float(sys.argv[1]), "syncs_s": round(syncs, 1), "most_s": round(syncs * int(sys.argv[3]))}))
PY
