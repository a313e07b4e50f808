#!/usr/bin/env bash
# The coordinator with many workers connected and many jobs queued: how long calls, heart-beats and the
# dashboard's answers take. Workers (on the same cores) only say that they are there: eight of them a job
# are given to the first jobs, which they prepare for ever, and the rest wait. Prints two JSON objects:
#
#   calls beside the heart-beats: Info (a look at the loop), List of 100 and of 1000, Workers
#   heart-beats from arrival to handled, CPU and memory, HTTP answers, the live stream's largest gap
#
#   bench/control_plane.sh [--build DIR] [--workers N] [--jobs N] [--seconds N]
#
# 1000 workers, 10000 jobs, 20 s.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release workers=1000 jobs=10000 seconds=20
while (($#)); do
    case $1 in
    --build) build=$2 ;;
    --workers) workers=$2 ;;
    --jobs) jobs=$2 ;;
    --seconds) seconds=$2 ;;
    *) usage ;;
    esac
    shift 2
done
ulimit -n 20000
{ many_job && echo "cluster: {min_workers: 1, max_workers: 8}"; } >"$dir/job.yaml"
coordinator --http 127.0.0.1:0 --http-port-file "$dir/http"
until [[ -s $dir/http ]]; do sleep 0.1; done
"$build/submit-rate" "$DISTILL_SERVER" "$dir/job.yaml" "$jobs" 64 many >/dev/null
"$build/control-plane" "$DISTILL_SERVER" "$workers" "$seconds" >"$dir/out" &
client=$!
until grep -q joined "$dir/out"; do
    kill -0 $client 2>/dev/null || { tail -n 3 "$dir/distilld.log" >&2; exit 1; }
    sleep 0.1
done
sleep 2
python3 - "$(<"$dir/http")" "$seconds" >"$dir/http.json" <<'PY'
import json, re, sys, threading, time, urllib.request
base, seconds = f"http://127.0.0.1:{sys.argv[1]}", float(sys.argv[2]) - 3

def get(path):
    began = time.monotonic()
    body = urllib.request.urlopen(base + path, timeout=60).read()
    return (time.monotonic() - began) * 1000, body

def histogram(text):
    return {float(b): int(n) for b, n in re.findall(r'distill_control_seconds_bucket\{le="([^"]+)"\} (\d+)', text)}

def number(text, name):
    return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

gaps, kinds = [], {}
def listen():
    with urllib.request.urlopen(base + "/api/v1/stream", timeout=60) as r:
        last, end = time.monotonic(), time.monotonic() + seconds
        while time.monotonic() < end:
            line = r.readline()
            if line.startswith(b"event: "):
                kinds[line[7:-1].decode()] = kinds.get(line[7:-1].decode(), 0) + 1
                now = time.monotonic()
                gaps.append(now - last)
                last = now

before = get("/metrics")[1].decode()
begun = time.monotonic()
thread = threading.Thread(target=listen, daemon=True)
thread.start()
times = {p: [] for p in ("/api/v1/jobs?limit=200", "/api/v1/workers", "/api/v1/info", "/metrics")}
while time.monotonic() - begun < seconds:
    for path in times:
        times[path].append(get(path)[0])
        time.sleep(0.25)
after = get("/metrics")[1].decode()
took = time.monotonic() - begun
a, b = histogram(before), histogram(after)
seen = {k: b[k] - a[k] for k in b}
total = seen[float("inf")]
result = {"heartbeats": total,
          "p99_at_most_ms": min(k for k in seen if seen[k] >= 0.99 * total) * 1000,
          "above_10_ms": total - seen[0.01], "above_100_ms": total - seen[0.1],
          "mean_ms": round(1000 * (number(after, "distill_control_seconds_sum") - number(before, "distill_control_seconds_sum")) / total, 3),
          "cpu": round((number(after, "process_cpu_seconds_total") - number(before, "process_cpu_seconds_total")) / took, 3),
          "resident_mb": round(number(after, "process_resident_memory_bytes") / 1e6, 1),
          "stream_events": kinds, "stream_largest_gap_s": round(max(gaps, default=0), 2)}
for path, ms in times.items():
    ms.sort()
    result[path] = {"median_ms": round(ms[len(ms) // 2], 1), "worst_ms": round(ms[-1], 1)}
print(json.dumps(result))
PY
wait $client
tail -n 1 "$dir/out"
cat "$dir/http.json"
