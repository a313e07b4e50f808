#!/usr/bin/env bash
# How long a killed worker and a killed coordinator hold a job up, and what is computed again.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/release] tests/fault/recovery.sh [--workers N] [--kills N]

Kills a worker N times (5) and then the coordinator N times while one job runs, starts each again at once, and
prints from the job's own events how long each fault took until the next step was committed, beside a usual
step's time. Fails if a worker's death made steps be computed again or cost more than 0.5 s beyond two steps'
time, if a coordinator's took more than 2 s from its start, or if the digests differ from an undisturbed job's.
Of the small job units, chunks and rebuild take a few milliseconds, so the limits are those of the protocol.
END
}
workers=3 kills=5
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --workers | --kills)
        [[ ${2-} =~ ^[1-9][0-9]?$ ]] || {
            echo "recovery.sh: $1 wants a number" >&2
            exit 2
        }
        if [ "$1" = --workers ]; then workers=$2; else kills=$2; fi
        shift
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

small_data
small_job >"$DIR/job.yaml"
cluster "$workers"
flags=(--set distill.epochs=60 --set cluster.checkpoint_every=20)
job=$(submit "${flags[@]}")
ended "$job" >/dev/null
want=$(stage_field "$job" distill digest)
steps=$(stage_field "$job" distill steps)
usual=$(stage_field "$job" distill seconds | awk -v n="$steps" '{ printf "%d", 1000 * $1 / n }')

job=$(submit "${flags[@]}")
await_steps "$job" distill 5
for i in $(seq "$kills"); do
    stop "w$((i % workers + 1))" KILL
    worker "w$((i % workers + 1))"
    sleep 1.5
done
ended "$job" >/dev/null
[ "$(stage_field "$job" distill digest)" = "$want" ] || fail "the digest differs after killed workers"

started=$job
job=$(submit "${flags[@]}")
await_steps "$job" distill 5
for i in $(seq "$kills"); do
    stop distilld KILL
    coordinator
    sleep 2
done
ended "$job" >/dev/null
[ "$(stage_field "$job" distill digest)" = "$want" ] || fail "the digest differs after killed coordinators"

for j in "$started" "$job"; do distill events "$j" --all -o json; done >"$DIR/recoveries.jsonl"
/usr/bin/python3 - "$DIR/recoveries.jsonl" "$usual" <<'END'
import json, sys
usual, bad = float(sys.argv[2]), False
print(f"usual step {usual:.0f} ms")
print(f"{'OF':12} {'STEP':>5} {'MS':>7} {'LOST MS':>8} {'REDONE':>7}")
for line in open(sys.argv[1]):
    e = json.loads(line)
    if e.get("kind") != "recovery":
        continue
    d = e["data"] if isinstance(e["data"], dict) else json.loads(e["data"])
    took, lost = d.get("took_ms", d.get("ms", 0)), d.get("lost_ms", 0)
    limit = 500 + 2 * usual if d["of"] == "worker" else 2000 + 2 * usual
    over = took > limit or d["steps_redone"] > 0
    bad |= over
    print(f"{d['of']:12} {d['step']:5} {took:7.0f} {lost:8.0f} {d['steps_redone']:7}{'  OVER' if over else ''}")
sys.exit(bad)
END
