#!/usr/bin/env bash
# Measures beside PyTorch on the same machine in the same minutes, alternating, and prints a JSON line a
# row: bench, ours, peer, unit, ratio, target, met, limit. README.md explains the rows. Nothing here gates a test.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bench/run.sh [--runs N] [--python PROGRAM] [--markdown FILE] [--list] [NAME...]

  --runs N         runs of ours and of the peer's, alternating; the medians count (5)
  --python PROGRAM the peer's Python with PyTorch (/usr/bin/python3: Debian's python3-torch)
  --newest         the peer is PyPI's newest PyTorch, installed into build/torch (some GB)
  --markdown FILE  writes the table there as well
  --list           the names of the rows

Rows are all of them without names.
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=5 python=/usr/bin/python3 markdown='' build=build/release wanted=()
die() {
    printf 'bench: %s\n' "$*" >&2
    exit 2
}

# name | at least (at most, with a <) | unit | ours | peer | limit. PEER stands for the peer's Python. Without a peer it
# is the figure itself that is compared. The limit is what this machine would allow, in the same unit; "peer": no more
# than the peer has.
rows=(
    "student-step|1|images/s|$build/kd-bench student-step|PEER student-step|limit 1 student-step"
    "cheap-step|2|images/s|$build/kd-bench cheap-step|PEER cheap-step|limit 1 cheap-step"
    "fine-tune-step|1.5|images/s|$build/kd-bench fine-tune-step|PEER fine-tune-step|limit 1 fine-tune-step"
    "resnet18-step|1.3|images/s|$build/kd-bench resnet18-step|PEER resnet18-step|limit 1 resnet18-step"
    "mlp-step|3|images/s|$build/kd-bench mlp-step|PEER mlp-step|limit 1 mlp-step"
    "teacher-infer|2|images/s|$build/kd-bench teacher-infer|PEER teacher-infer|limit 1 teacher-infer"
    "teacher-bfloat16|2|images/s|$build/kd-bench teacher-bfloat16|PEER teacher-infer|limit 1 teacher-bfloat16"
    "teacher-int8|6|images/s|$build/kd-bench teacher-int8|PEER teacher-infer|limit 1 teacher-int8"
    "whole-step|5|images/s|job images_s --views fresh|PEER whole-step|limit 2 teacher-infer student-step"
    "whole-step-int8|5|images/s|job images_s --views fresh --precision int8|PEER whole-step|limit 2 teacher-int8 student-step"
    "stored-logits-step|4|images/s|job images_s --views 1 --epochs 8|PEER stored-logits-step|limit 2 student-step"
    "one-job|0.97|images/s|job images_s --views 1 --epochs 8|job images_s --views 1 --epochs 8 --clusters 2 --workers 1|peer"
    "exchange|0.96|images/s|job images_s --views 1 --epochs 8|job units_s --views 1 --epochs 8 --units|peer"
    "submits|2000|jobs/s|of jobs_s bench/submits.sh||of most_s bench/submits.sh --calls 100"
    "first-step|<1.5|s|of first_step_s bench/first_step.sh --runs 3||seconds_of 64 2 teacher-infer student-step"
    "worker-memory|<0.33|MB|job worker_mb --views fresh|PEER whole-step memory|$build/kd-bench --memory teacher-infer student-step"
)
names=()
for row in "${rows[@]}"; do names+=("${row%%|*}"); done

while (($#)); do
    case $1 in
    --runs | --python | --markdown)
        (($# >= 2)) || die "$1 needs a value"
        ;;&
    --runs) runs=$2 && shift ;;
    --python) python=$2 && shift ;;
    --markdown) markdown=$2 && shift ;;
    --newest)
        [[ -x build/torch/bin/python ]] || python3 -m venv build/torch
        build/torch/bin/python -c 'import torch' 2>/dev/null || build/torch/bin/pip install -q torch numpy
        python=build/torch/bin/python
        ;;
    --list)
        printf '%s\n' "${names[@]}" full-bank-step sum-path sum-path-tls
        exit 0
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) die "unknown flag $1; --help shows them" ;;
    *)
        [[ " ${names[*]} full-bank-step sum-path sum-path-tls " == *" $1 "* ]] || die "there is no row $1; --list shows them"
        wanted+=("$1")
        ;;
    esac
    shift
done
[[ $runs =~ ^[1-9][0-9]?$ ]] || die "--runs wants a number from 1 to 99"
"$python" -c 'import torch' 2>/dev/null || die "$python has no PyTorch: apt install python3-torch, or --newest"
cmake --preset release >/dev/null
cmake --build --preset release --target distilld distill-worker distill kd-bench kd-units submit-rate sum-server \
    sum-worker raw-tcp >/dev/null
export OMP_NUM_THREADS=1

# of FIELD SCRIPT FLAGS...: what a script of this folder printed.
of() {
    "$2" --build "$build" "${@:3}" | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}
# job FIELD FLAGS...: of a real job.
job() { of "$1" bench/job_rate.sh "${@:2}"; }
limit() { "$build/kd-bench" --limit "$@"; } # CORES NAME...
# How long so many pictures take at least: PICTURES CORES NAME...
seconds_of() { limit "${@:2}" | python3 -c 'import json, sys; print(json.dumps((r := json.load(sys.stdin)) and float(sys.argv[1]) / r))' "$1"; }
# Its warnings are of no use, what it says when it fails is.
PEER() { "$python" bench/peer.py "$@" 2>"$said" || { cat "$said" >&2 && return 1; }; }
is_wanted() { ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $1 "* ]]; }

table=$(mktemp) said=$(mktemp)
trap 'rm -f "$table" "$said"' EXIT
for row in "${rows[@]}"; do
    IFS='|' read -r name target unit ours peer limit <<<"$row"
    is_wanted "$name" || continue
    a='' b=''
    for ((i = 1; i <= runs; i++)); do
        a+=" $($ours)"
        [[ -z $peer ]] || b+=" $($peer)"
        printf '%s: run %d of %d done\n' "$name" "$i" "$runs" >&2
    done
    [[ $limit == peer ]] || limit=$($limit)
    python3 - "$name" "$target" "$unit" "$a" "$b" "$limit" <<'PY' | tee -a "$table"
import json, statistics, sys
name, target, unit = sys.argv[1:4]
ours, peer = (statistics.median(map(float, s.split())) if s.split() else None for s in sys.argv[4:6])
limit = peer if sys.argv[6] == "peer" else json.loads(sys.argv[6])
most, target = target.startswith("<"), float(target.lstrip("<"))
value = ours / peer if peer else ours
print(json.dumps({"bench": name, "ours": round(ours, 2), "peer": peer and round(peer, 2), "unit": unit,
                  "ratio": round(value, 3) if peer else None, "target": target,
                  "met": value <= target if most else value >= target, "limit": limit and round(limit, 2)}), flush=True)
PY
done
! is_wanted sum-path || bench/sum_path.sh --runs "$runs" --build "$build" | tee -a "$table"
! is_wanted sum-path-tls || bench/sum_path.sh --tls --runs "$runs" --build "$build" | tee -a "$table"
! is_wanted full-bank-step || bench/full_bank.sh --runs "$runs" --build "$build" | tee -a "$table"
[[ -z $markdown ]] || python3 - "$table" >"$markdown" <<'PY'
import json, sys
print("| bench | ours | peer | unit | ratio | target | met | limit |\n|---|---|---|---|---|---|---|---|")
show = lambda x: "" if x is None else f"{x:g}"
for r in map(json.loads, open(sys.argv[1])):
    print("|", " | ".join([f"`{r['bench']}`", show(r["ours"]), show(r["peer"]), r["unit"], show(r["ratio"]), show(r["target"]),
                           "yes" if r["met"] else "no", show(r["limit"])]), "|")
PY
