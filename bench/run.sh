#!/usr/bin/env bash
# Measures beside PyTorch, alternating ours and its runs, and prints a JSON line for each bench with
# the medians: bench, ours, peer, unit, ratio, target, met.
#
#   bench/run.sh [runs]      5 runs of each by default; needs Debian's python3-torch
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${1:-5}
PYTHON=/usr/bin/python3
BUILD=build/release
"$PYTHON" -c 'import torch' 2>/dev/null || { echo "install python3-torch first" >&2; exit 1; }
cmake --preset release >/dev/null
cmake --build --preset release >/dev/null
cmake --build --preset release --target kd-bench >/dev/null
export OMP_NUM_THREADS=1

ours() {
    case $1 in
    whole-step) bench/whole_step.sh "$BUILD" ;;
    *) "$BUILD/kd-bench" "$1" ;;
    esac
}

# bench NAME TARGET-RATIO
bench() {
    local a="" b="" i
    for i in $(seq "$RUNS"); do
        a="$a $(ours "$1")"
        b="$b $("$PYTHON" bench/peer.py "$1" 2>/dev/null)"
        echo "$1: run $i of $RUNS done" >&2
    done
    "$PYTHON" - "$1" "$2" "$a" "$b" <<'PY'
import json, statistics, sys
name, target = sys.argv[1], float(sys.argv[2])
ours, peer = (statistics.median(map(float, s.split())) for s in sys.argv[3:5])
print(json.dumps({"bench": name, "ours": round(ours, 2), "peer": round(peer, 2),
                  "unit": "images/s", "ratio": round(ours / peer, 3), "target": target,
                  "met": ours / peer >= target}), flush=True)
PY
}

bench student-step 1.0
bench teacher-infer 1.0
bench whole-step 1.0
bench/full_bank.sh --runs "$RUNS" --build "$BUILD"
