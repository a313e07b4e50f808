#!/usr/bin/env bash
# Makes the report again: a coordinator and workers on loopback, every job file of this folder, one table.
set -euo pipefail

usage() {
    cat <<'END'
Usage: docs/report/run.sh [--out DIR] [--only NAME]... [--size N] [--student-size N] [--set KEY=VALUE]...
                          [--workers N] [--threads N] [--build DIR] [--server HOST:PORT] [--list]

Trains the teacher, then every experiment of docs/report/*.yaml with it, and writes the table of our figures
beside the report's. DISTILL_DATA names the photographs: DISTILL_DATA/flowers/{images,train.txt,val.txt,
classes.txt} and DISTILL_DATA/weights/mobilenet_v2.safetensors.

  --out DIR           state, data, logs and results             (./report-out)
  --only NAME         this experiment, and the teacher if it needs one (repeatable)
  --size N            pixels a side instead of 224: 96 is some five times quicker
  --student-size N    pixels a side that the report's student sees, its teacher still seeing --size: 64 is some
                      ten times quicker, and better
  --set KEY=VALUE     overrides of every job file, as with submit (repeatable)
  --workers N         worker processes (2); --threads N of each (1)
  --build DIR         programs that are built already           (build/release, built if need be)
  --server HOST:PORT  a cluster that runs; its workers' data root must be DIR/data
  --list              names of the experiments

Run it again after an interruption: what is done is not done twice, and what was running goes on.
DIR gets table.md, compress.md (what makes the student smaller), results/NAME (networks, result.json) and NAME.html, the report of that run. A run of the
files as they are also writes docs/report/table.md. Exit code 0 only if all of it succeeded.
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# The order of the table. Files that are not named here come last.
order=(teacher scratch kd weighted weighted-equal mse deeper-mse augmentation unlabelled temperature-sweep
    regularised function-matching compress baseline-mobilenet baseline-efficientnet)
for file in "$here"/*.yaml; do
    name=$(basename "$file" .yaml)
    [[ " ${order[*]} " == *" $name "* ]] || order+=("$name")
done

die() {
    printf 'report: %s\n' "$*" >&2
    exit 1
}
say() { printf '%s\n' "$*"; }

out=./report-out bin='' server='' n_workers=2 threads=1 student_size=''
only=() overrides=()
while (($#)); do
    case $1 in
    --out | --only | --size | --student-size | --set | --workers | --threads | --build | --server)
        (($# >= 2)) || die "$1 needs a value"
        ;;&
    --out) out=$2 ;;
    --only)
        [[ " ${order[*]} " == *" $2 "* ]] || die "there is no experiment $2; --list names them"
        only+=("$2")
        ;;
    --size) overrides+=(--set "data.labelled.size=$2") ;;
    --student-size) student_size=$2 ;;
    --set) overrides+=(--set "$2") ;;
    --workers) n_workers=$2 ;;
    --threads) threads=$2 ;;
    --build) bin=$2 ;;
    --server) server=$2 ;;
    --list)
        printf '%s\n' "${order[@]}"
        exit 0
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown flag $1; --help shows them" ;;
    esac
    shift 2
done
[[ $n_workers =~ ^[1-9][0-9]?$ && $threads =~ ^[1-9][0-9]?$ ]] || die "--workers and --threads want a number from 1 to 99"

# ---- what there is
[[ -n ${DISTILL_DATA:-} ]] || die "DISTILL_DATA is not set; --help says what it holds"
photos=$(cd "$DISTILL_DATA" && pwd)
imagenet=$photos/weights/mobilenet_v2.safetensors
[[ -r $imagenet ]] || die "there is no $imagenet"
if [[ -z $bin ]]; then
    bin=$root/build/release
    (cd "$root" && cmake --preset release && cmake --build --preset release --target distilld distill-worker distill) \
        >/dev/null || die "the build failed; deploy/quickstart.sh installs what it needs"
fi
bin=$(cd "$bin" && pwd)
mkdir -p "$out/logs" "$out/results"
out=$(cd "$out" && pwd)
"$here/make_lists.sh" "$photos" "$out/data"

# ---- the cluster
daemons=() watcher=''
stop_all() {
    local code=$? pid
    trap '' INT TERM
    trap - EXIT
    [[ -z $watcher ]] || kill -HUP "$watcher" 2>/dev/null || true
    # Workers before their coordinator.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do kill -TERM "${daemons[i]}" 2>/dev/null || true; done
    for pid in "${daemons[@]}"; do wait "$pid" 2>/dev/null || true; done
    exit "$code"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ -z $server ]]; then
    rm -f "$out/port"
    "$bin/distilld" --state-dir "$out/state" --listen 127.0.0.1:0 --port-file "$out/port" \
        >>"$out/logs/distilld.log" 2>&1 </dev/null &
    daemons+=($!)
    for ((i = 0; i < 300; i++)); do
        [[ ! -s $out/port ]] || break
        kill -0 "${daemons[0]}" 2>/dev/null || die "the coordinator did not start; see $out/logs/distilld.log"
        sleep 0.1
    done
    [[ -s $out/port ]] || die "the coordinator did not tell its port"
    server=127.0.0.1:$(<"$out/port")
    for ((i = 1; i <= n_workers; i++)); do
        "$bin/distill-worker" --server "$server" --data-root "$out/data" --name "w$i" --threads "$threads" \
            >>"$out/logs/w$i.log" 2>&1 </dev/null &
        daemons+=($!)
    done
fi
export DISTILL_SERVER=$server
distill() { "$bin/distill" "$@"; }
state_of() { distill show "$1" -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])'; }

# follow JOB: watches until it ends; dies if a daemon ends before.
follow() {
    local pid code=0
    "$bin/distill" watch "$1" &
    watcher=$!
    while kill -0 "$watcher" 2>/dev/null; do
        for pid in "${daemons[@]}"; do
            kill -0 "$pid" 2>/dev/null || die "a daemon ended; see $out/logs. Run this again to go on"
        done
        sleep 1
    done
    wait "$watcher" || code=$?
    watcher=''
    return "$code"
}

# ---- the experiments
needs_teacher() { grep -q 'weights: teacher\.safetensors' "$here/$1.yaml"; }

# flags_of NAME: fills `flags`.
flags_of() {
    flags=("${overrides[@]}")
    if [[ -n $student_size ]] && grep -q 'model: shallow_cnn' "$here/$1.yaml"; then
        flags+=(--set "student.size=$student_size")
    fi
    if needs_teacher "$1"; then
        flags+=(--set "teacher.weights=job:$(<"$out/results/teacher/job")")
    elif grep -q 'weights: weights/mobilenet_v2\.safetensors' "$here/$1.yaml"; then
        local network=student
        ! grep -q '^teacher:' "$here/$1.yaml" || network=teacher
        # A quote inside YAML's single quotes is written twice.
        flags+=(--set "$network.weights='${imagenet//\'/\'\'}'")
    fi
}

# run NAME: sets `job`. The key is made of what is asked, so that the coordinator itself knows what it has done;
# a job that failed or was cancelled is tried again under the next key.
run() {
    local name=$1 file=$here/$1.yaml code=0 key try known flags
    flags_of "$name"
    key=$name-$({ cat "$file" && printf '%s\n' "${flags[@]}"; } | sha256sum | cut -c1-16)
    for ((try = 1; ; try++)); do
        job=$(distill submit "$file" "${flags[@]}" --key "$key-$try" -q) || return 1
        known=$(state_of "$job")
        [[ $known == failed || $known == cancelled ]] || break
    done
    if [[ $known != succeeded ]]; then
        say "== $name: job $job"
        follow "$job" || code=$?
        ((code == 0)) || return "$code"
    elif [[ -e $out/results/$name/job && $(<"$out/results/$name/job") == "$job" && -s $out/$name.html ]]; then
        say "== $name: done already, job $job"
        return 0
    fi
    rm -rf -- "${out:?}/results/$name.part"
    distill fetch "$job" -O "$out/results/$name.part" >/dev/null
    distill show "$job" --resolved >"$out/results/$name.part/job.json"
    distill report "$job" -O "$out/$name.html"
    printf '%s\n' "$job" >"$out/results/$name.part/job"
    rm -rf -- "${out:?}/results/$name"
    mv -- "$out/results/$name.part" "$out/results/$name"
}

table() {
    python3 "$here/table.py" "$out/results" "${order[@]}" >"$out/table.md"
    if [[ $1 == compress ]]; then
        python3 "$here/compress_table.py" "$bin/distill" "$out/results/compress" >"$out/compress.md"
    fi
}

todo=()
for name in "${order[@]}"; do
    ((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $name "* ]] || continue
    todo+=("$name")
done
if [[ " ${todo[*]} " != *" teacher "* ]]; then
    for name in "${todo[@]}"; do
        if needs_teacher "$name"; then
            todo=(teacher "${todo[@]}")
            break
        fi
    done
fi

failed=()
for name in "${todo[@]}"; do
    if run "$name"; then
        table "$name"
    else
        [[ $name != teacher ]] || die "the teacher failed; distill logs $job says why"
        failed+=("$name")
    fi
done
say
cat "$out/table.md"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
if ((${#overrides[@]} == 0)) && [[ -z $student_size ]]; then
    cp -- "$out/table.md" "$here/table.md"
    say
    say "written: $here/table.md, $out/*.html"
fi
