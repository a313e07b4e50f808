#!/usr/bin/env bash
# From a fresh clone to a distilled student: installs what is missing, builds a release, starts a
# coordinator and two workers on loopback, runs one job and fetches its results.
set -euo pipefail

# Drawn pictures, used when DISTILL_DATA is unset; their size is the job's.
drawn_flags=(--size 64 --train 2000 --val 500 --seed 1)

usage() {
    cat <<'END'
Usage: deploy/quickstart.sh [--out DIR] [--workers N] [--threads N] [--job FILE] [--no-install]

Installs the packages, builds a release, runs one distillation job through a coordinator and
workers on this machine, and leaves student.safetensors and result.json in DIR.

  --out DIR      results, logs and the coordinator's state  (QUICKSTART_OUT, ./quickstart-out)
  --workers N    worker processes (2)
  --threads N    compute threads of each worker (1)
  --job FILE     another job file than deploy/quickstart-{photos,drawn}.yaml
  --no-install   install no packages; fail if some are missing

DISTILL_DATA=DIR uses real photographs: DIR/flowers/{train.txt,val.txt,classes.txt,images} and
DIR/weights/mobilenet_v2.safetensors. Without it the pictures are drawn by `distill data make`.
Exit code 0 only if the job succeeded. Ctrl-C stops everything that was started.
END
}

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${QUICKSTART_OUT:-./quickstart-out}
n_workers=2
threads=1
job=
install=yes

number() { # FLAG VALUE
    [[ $2 =~ ^[1-9][0-9]{0,2}$ ]] || {
        printf 'quickstart: %s wants a number from 1 to 999, not "%s"\n' "$1" "$2" >&2
        exit 2
    }
}

while (($#)); do
    case $1 in
    --out | --workers | --threads | --job)
        (($# >= 2)) || {
            printf 'quickstart: %s needs a value\n' "$1" >&2
            exit 2
        }
        ;;&
    --out) out=$2 && shift 2 ;;
    --workers) number "$1" "$2" && n_workers=$2 && shift 2 ;;
    --threads) number "$1" "$2" && threads=$2 && shift 2 ;;
    --job) job=$2 && shift 2 ;;
    --no-install) install=no && shift ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        printf 'quickstart: unknown flag "%s"; --help shows them\n' "$1" >&2
        exit 2
        ;;
    esac
done

# ---- stopping. Every daemon leads a process group of its own, so that nothing of it is left behind.
groups=()
client=
daemon_log=
finished=no

group_alive() { kill -0 -- "-$1" 2>/dev/null; }

stop_all() {
    local code=$? pid i
    # A second Ctrl-C while things stop must not leave the rest running.
    trap '' INT TERM HUP
    trap - EXIT
    if [[ -n $client ]]; then
        # Without a word (on TERM it would say how to watch again), but for certain.
        kill -HUP "$client" 2>/dev/null || true
        for ((i = 0; i < 30; i++)); do
            kill -0 "$client" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$client" 2>/dev/null || true
        wait "$client" 2>/dev/null || true
    fi
    # Workers before their coordinator.
    for ((i = ${#groups[@]} - 1; i >= 0; i--)); do
        kill -TERM -- "-${groups[i]}" 2>/dev/null || true
    done
    for pid in "${groups[@]}"; do
        for ((i = 0; i < 150; i++)); do
            group_alive "$pid" || break
            sleep 0.1
        done
        kill -KILL -- "-$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if ((code != 0)) && [[ $finished == no && -n $daemon_log ]]; then
        show_logs
        case $code in
        129 | 130 | 143) say "quickstart: interrupted; everything it started was stopped" >&2 ;;
        *) say "quickstart: failed with exit code $code; logs and state are in $out" >&2 ;;
        esac
    fi
    exit "$code"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

show_logs() {
    local log
    for log in "$out"/logs/*.log; do
        [[ -s $log ]] || continue
        printf -- '\n-- last lines of %s\n' "$log" >&2
        tail -n 12 "$log" >&2
    done
}

# start NAME COMMAND...: a daemon in its own process group, its output in logs/NAME.log.
start() {
    local name=$1
    shift
    # Job control gives each background command its own group.
    set -m
    "$@" >"$out/logs/$name.log" 2>&1 </dev/null &
    groups+=("$!")
    set +m
}

# ---- what is needed
[[ $(uname -s) == Linux ]] || die "this needs Linux; the packages are those of Debian 12"
if [[ -r /etc/os-release ]]; then
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && printf '%s %s' "${ID:-}" "${VERSION_ID:-}")
else
    release=unknown
fi

data_root=
weights=
if [[ -n ${DISTILL_DATA:-} ]]; then
    [[ -d $DISTILL_DATA ]] || die "DISTILL_DATA=$DISTILL_DATA is not a folder"
    data_root=$(cd "$DISTILL_DATA" && pwd)
    weights=$data_root/weights/mobilenet_v2.safetensors
    for file in flowers/train.txt flowers/val.txt flowers/classes.txt weights/mobilenet_v2.safetensors; do
        [[ -r $data_root/$file ]] ||
            die "DISTILL_DATA has no $file; unset it to use drawn pictures instead"
    done
fi
if [[ -n $job && ! -r $job ]]; then
    die "there is no job file $job"
fi

if [[ -e $out && ! -d $out ]]; then
    die "$out is not a folder; choose another with --out"
fi
# Only what an earlier quickstart made is cleared away.
if [[ -d $out && -n $(ls -A "$out") ]]; then
    [[ -e $out/.quickstart ]] ||
        die "$out holds other files; choose another folder with --out"
    rm -rf -- "$out/state" "$out/logs" "$out/flowers" "$out/port" "$out/result.json"
    rm -f -- "$out"/*.safetensors
fi
mkdir -p "$out/logs"
out=$(cd "$out" && pwd)
: >"$out/.quickstart"

# ---- packages and build
if [[ $install == yes ]]; then
    if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
        [[ $release == "debian 12" ]] || say "note: this is $release; only Debian 12 is tested"
        "$root/deploy/install-deps.sh" ||
            die "packages are missing: run deploy/install-deps.sh as root, then this again"
    else
        say "note: this is $release and no Debian; going on with the packages that are here"
    fi
fi
build_log=$out/logs/build.log
daemon_log=$build_log
step "building a release (log: $build_log)"
command -v cmake >/dev/null ||
    die "there is no cmake: install what deploy/install-deps.sh --list prints"
if ! (cd "$root" && cmake --preset release) >"$build_log" 2>&1; then
    # What an earlier try did not find must not stay remembered.
    (cd "$root" && cmake --fresh --preset release) >"$build_log" 2>&1 ||
        die "cmake cannot configure: a package may be missing (deploy/install-deps.sh --list)"
fi
cmake --build "$root/build/release" --target distilld distill-worker distill >>"$build_log" 2>&1 ||
    die "the build failed"
bin=$root/build/release
say "$("$bin/distill" version) is built"
SECONDS=0

# ---- data
submit_flags=()
if [[ -n $data_root ]]; then
    step "data: photographs in $data_root/flowers"
    job=${job:-$root/deploy/quickstart-photos.yaml}
    # A quote inside YAML's single quotes is written twice.
    submit_flags=(--set "teacher.weights='${weights//\'/\'\'}'")
else
    step "data: pictures drawn by distill itself"
    job=${job:-$root/deploy/quickstart-drawn.yaml}
    data_root=$out
    "$bin/distill" data make flowers "$out/flowers" "${drawn_flags[@]}"
fi

# ---- daemons
step "starting a coordinator and $n_workers workers on loopback (logs: $out/logs)"
start distilld "$bin/distilld" --state-dir "$out/state" --listen 127.0.0.1:0 --port-file "$out/port"
coordinator=${groups[0]}
for ((i = 0; i < 300; i++)); do
    [[ ! -s $out/port ]] || break
    kill -0 "$coordinator" 2>/dev/null || die "the coordinator did not start"
    sleep 0.1
done
port=$(tr -dc 0-9 <"$out/port" 2>/dev/null || true)
[[ -n $port ]] || die "the coordinator did not tell its port within 30 seconds"
export DISTILL_SERVER=127.0.0.1:$port
for ((i = 1; i <= n_workers; i++)); do
    start "w$i" "$bin/distill-worker" --server "$DISTILL_SERVER" --data-root "$data_root" \
        --name "w$i" --threads "$threads"
done
say "coordinator at $DISTILL_SERVER"

# ---- the job
step "distill submit --watch ${job#"$root/"}"
# In the background, because a trap waits for a command in the foreground.
"$bin/distill" submit --quiet --watch "${submit_flags[@]}" "$job" &
client=$!
workers_left=$n_workers
running=("$client" "${groups[@]}")
while :; do
    code=0
    ended=
    wait -n -p ended "${running[@]}" || code=$?
    if [[ $ended == "$client" ]]; then
        client=
        break
    fi
    [[ $ended != "$coordinator" ]] || die "the coordinator ended with exit code $code"
    for i in "${!running[@]}"; do
        [[ ${running[i]} != "$ended" ]] || unset 'running[i]'
    done
    workers_left=$((workers_left - 1))
    ((workers_left > 0)) || die "the last worker ended with exit code $code"
    say "note: a worker ended with exit code $code; the job goes on if cluster.min_workers are left" >&2
done
((code == 0)) || exit "$code"

# ---- results
id=$("$bin/distill" jobs --quiet --limit 1)
"$bin/distill" fetch "$id" --output-dir "$out" >"$out/logs/fetch.log"
for file in student.safetensors result.json; do
    [[ -s $out/$file ]] || die "the job left no $file"
done
finished=yes
say
say "done after $((SECONDS / 60))m$((SECONDS % 60))s; in $out:"
(cd "$out" && ls -1 -- *.safetensors result.json) | sed 's/^/  /'
