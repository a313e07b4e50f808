#!/usr/bin/env bash
# The coordinator's sum path beside raw TCP: workers that compute nothing push a gradient, take sums, publish
# and take slices through a real exchange with its journal; the peer moves the same bytes. Prints a JSON line for
# each size and number of workers: ours and peer in MB/s of bytes pushed and pulled by the workers.
#
#   bench/sum_path.sh [--build DIR] [--runs N] [--sizes "4 64"] [--workers "2 4 8"] [--gradients bfloat16] [--tls]
#
# Sizes in MB of float32. Medians of 5 alternating runs. With bfloat16 gradients ours counts the same MB, of which it
# moves fewer. --tls: over mutual TLS, as daemons on several hosts do; the peer stays plain.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release runs=5 sizes="4 64" counts="2 4 8" gradients=float32
certificates=plain login=plain target=0.75 suffix=
while (($#)); do
    case $1 in
    --tls)
        certificates=$dir/tls login=$dir/tls/admin target=0.5 suffix=-tls
        shift
        continue
        ;;
    --build) build=$2 ;;
    --runs) runs=$2 ;;
    --sizes) sizes=$2 ;;
    --workers) counts=$2 ;;
    --gradients) gradients=$2 ;;
    *) usage ;;
    esac
    shift 2
done
ours() { # MB WORKERS STEPS
    local floats pid pids=()
    floats=$(python3 -c 'import sys; print(int(float(sys.argv[1]) * 250000))' "$1")
    rm -rf "${dir:?}"/*
    "$build/sum-server" "$floats" "$2" "$3" "$dir/j" "$gradients" "$certificates" >"$dir/out" &
    pid=$!
    until [[ -s $dir/out ]]; do sleep 0.02; done
    for ((i = 0; i < $2; i++)); do
        "$build/sum-worker" "127.0.0.1:$(<"$dir/out")" "$floats" "$2" "$i" $(($3 + 1)) "$gradients" "$login" &
        pids+=($!)
    done
    wait "$pid" "${pids[@]}" || return 1
    tail -n 1 "$dir/out"
}
for mb in $sizes; do
    for n in $counts; do
        steps=$(python3 -c 'import sys; print(max(3, min(60, int(400 / float(sys.argv[1])))))' "$mb") a='' b=''
        for ((run = 0; run < runs; run++)); do
            a+=" $(ours "$mb" "$n" "$steps")"
            b+=" $("$build/raw-tcp" "$(python3 -c 'import sys; print(int(float(sys.argv[1]) * 1e6))' "$mb")" "$n" "$steps")"
        done
        # Each core copies a byte once, in or out of the kernel, and with TLS enciphers or deciphers it.
        limit=$("$build/kd-bench" --copy "$mb")
        [[ -z $suffix ]] || limit=$(openssl speed -evp aes-256-gcm -bytes 16384 -seconds 1 -mr 2>/dev/null |
            awk -F: -v copy="$limit" '/^\+F/ { printf "%.0f", 1 / (1 / copy + 1e6 / $4) }')
        python3 - "$mb" "$n" "$steps" "$a" "$b" "$limit" "$target" "$suffix" <<'PY'
import json, statistics, sys
mb, n, steps = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
ours, peer = (2 * mb * n * steps / statistics.median(map(float, s.split())) for s in sys.argv[4:6])
target = float(sys.argv[7])
print(json.dumps({"bench": f"sum-path-{mb:g}MB-{n}{sys.argv[8]}", "ours": round(ours, 1), "peer": round(peer, 1), "unit": "MB/s",
                  "ratio": round(ours / peer, 3), "target": target, "met": ours / peer >= target,
                  "limit": float(sys.argv[6])}), flush=True)
PY
    done
done
