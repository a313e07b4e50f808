#!/usr/bin/env bash
# Runs the fuzz targets, each for so many seconds of processor time, and says what came of it.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/fuzz/campaign.sh [--seconds N] [--target NAME]... [--jobs N] [--merge] [--list]

Builds the preset `fuzz` (deploy/install-deps.sh --fuzz installs what it needs) and runs each target
on tests/fuzz/corpus/NAME. What it finds is kept in build/fuzz/found/NAME, where the next campaign
goes on. At the end a Markdown table is printed.

  --seconds N    processor time of each target, 600 by default
  --target NAME  only this one; may be given again
  --jobs N       targets that run at once, 1 by default
  --merge        afterwards (with --seconds 0: only) put what is new into tests/fuzz/corpus, minimised:
                 files named by their digest are replaced, files with a name of their own stay
  --list         print the names of the targets

Exit code: 0 nothing was found; 1 a target crashed, leaked, hung or took too much memory: the others are
stopped, and the command that shows it is printed; 2 usage.
END
}

# A corpus in the repository is small; the rest stays in build/fuzz/found.
max_files=60
max_bytes=150000

die() {
    printf 'campaign: %s\n' "$*" >&2
    exit 2
}
number() { # FLAG VALUE LEAST
    if ! [[ ${2-} =~ ^[0-9]{1,7}$ ]] || ((10#$2 < $3)); then
        die "$1 wants a whole number from $3 on"
    fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mapfile -t all < <(sed -nE 's/^kd_fuzz_targets\(.* TARGETS (.*)\)$/\1/p' tests/fuzz/CMakeLists.txt | tr ' ' '\n')

seconds=600 jobs=1 merge=no targets=()
while (($#)); do
    case $1 in
    --seconds)
        number "$1" "${2-}" 0
        seconds=$((10#$2))
        shift
        ;;
    --jobs)
        number "$1" "${2-}" 1
        jobs=$((10#$2))
        shift
        ;;
    --target)
        [[ " ${all[*]} " == *" ${2-} "* ]] || die "there is no target \"${2-}\"; --list prints them"
        targets+=("$2")
        shift
        ;;
    --merge) merge=yes ;;
    --list)
        printf '%s\n' "${all[@]}"
        exit 0
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown flag \"$1\"; --help shows them" ;;
    esac
    shift
done
((${#targets[@]})) || targets=("${all[@]}")

build=build/fuzz
command -v clang-14 >/dev/null || die "clang-14 is missing; deploy/install-deps.sh --fuzz installs it"
log=$(cmake --preset fuzz 2>&1) || {
    printf '%s\n' "$log" >&2
    die "cmake could not configure the build"
}
cmake --build --preset fuzz || die "the build failed"

# Names of files and servers come from the command line alone. Folders of the targets go with us.
unset DISTILL_SERVER DISTILL_DATA_ROOT DISTILLD_STATE_DIR DISTILLD_LISTEN KD_LOG
base=/tmp
[[ -w /dev/shm ]] && base=/dev/shm
TMPDIR=$(mktemp -d "$base/kd-campaign-XXXXXX")
export TMPDIR
running=()
clean_up() {
    if ((${#running[@]} > 0)); then
        kill "${running[@]}" 2>/dev/null || true
        wait "${running[@]}" || true
    fi
    rm -rf "$TMPDIR"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1:${ASAN_OPTIONS-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS-}
if [[ -z ${ASAN_SYMBOLIZER_PATH-} ]] && symbolizer=$(command -v llvm-symbolizer-14); then
    export ASAN_SYMBOLIZER_PATH=$symbolizer
fi

flags_of() { # NAME: into `flags`
    flags=(-rss_limit_mb=3072 -timeout=20 -max_len=8192 -print_final_stats=1)
    case $1 in
    cifar) flags+=(-max_len=32768) ;; # records are 3 KiB
    onnx) flags+=(-max_len=16384) ;;
    distill | distilld | worker) flags+=(-max_len=512) ;;
    esac
    [[ ! -f tests/fuzz/dict/$1.dict ]] || flags+=("-dict=tests/fuzz/dict/$1.dict")
}

cpu_seconds() { # PID: processor time so far, nothing when it has gone
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # What comes behind the name in brackets.
    read -ra stat <<<"${stat##*) }"
    echo $(((stat[11] + stat[12]) / hertz))
}
hertz=$(getconf CLK_TCK)

start() { # NAME
    local found=$build/found/$1 crashes=$build/crashes/$1 flags
    mkdir -p "$found" "$crashes" "tests/fuzz/corpus/$1"
    flags_of "$1"
    "$build/fuzz/fuzz_$1" "${flags[@]}" -artifact_prefix="$crashes/" "$found" \
        "tests/fuzz/corpus/$1" >"$build/$1.log" 2>&1 </dev/null &
    running+=($!)
    name_of[$!]=$1
}

# Ends what has had its time; waits for the first one that ends, and looks at it.
declare -A name_of=() rc_of=()
reap() {
    local pid used left=()
    for pid in "${running[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            used=$(cpu_seconds "$pid")
            # libFuzzer ends properly at this signal, with its statistics.
            ((${used:-0} < seconds)) || kill -USR1 "$pid" 2>/dev/null || true
            left+=("$pid")
            continue
        fi
        local rc=0
        wait "$pid" || rc=$?
        rc_of[${name_of[$pid]}]=$rc
    done
    running=(${left[@]+"${left[@]}"})
}

crashed() { # NAME: what was found, and how to see it again
    local file
    file=$(sed -nE 's/.*Test unit written to (.*)$/\1/p' "$build/$1.log" | tail -1)
    printf '\ncampaign: %s failed:\n' "$1" >&2
    grep -aE 'ERROR: |SUMMARY: |runtime error|^BUG: ' "$build/$1.log" | head -5 >&2 || true
    printf 'campaign: the whole output is in %s\n' "$build/$1.log" >&2
    [[ -z $file ]] || printf 'campaign: reproduce with\n  %s %s\n' "$build/fuzz/fuzz_$1" "$file" >&2
}

bad=
if ((seconds > 0)); then
    todo=("${targets[@]}")
    while [[ -z $bad ]] && ((${#todo[@]} + ${#running[@]} > 0)); do
        while ((${#todo[@]} > 0 && ${#running[@]} < jobs)); do
            printf 'campaign: %s, %d s\n' "${todo[0]}" "$seconds" >&2
            start "${todo[0]}"
            todo=("${todo[@]:1}")
        done
        sleep 1
        reap
        for name in "${!rc_of[@]}"; do
            [[ ${rc_of[$name]} == 0 ]] || bad=$name
        done
    done
fi

statistic() { # NAME KEY
    sed -nE "s/^stat::$2: *([0-9]+).*/\1/p" "$build/$1.log" | tail -1
}
row() { # NAME
    local cov
    cov=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+' "$build/$1.log" | tail -1)
    local files size
    files=$(find "tests/fuzz/corpus/$1" "$build/found/$1" -type f | wc -l)
    size=$(find "tests/fuzz/corpus/$1" "$build/found/$1" -type f -printf '%s\n' | awk '{n += $1} END {print int(n / 1024 + 0.5)}')
    local crashes=0
    [[ ${rc_of[$1]} == 0 ]] || crashes=1
    printf '| %s | %s | %s | %s | %s | %s KiB | %s |\n' "$1" \
        "$(statistic "$1" number_of_executed_units)" "$(statistic "$1" average_exec_per_sec)" \
        "$(sed -E 's/cov: ([0-9]+) ft: ([0-9]+)/\1 \/ \2/' <<<"$cov")" "$files" "$size" "$crashes"
}
if ((${#rc_of[@]} > 0)); then
    printf '\n| target | executions | exec/s | edges / features | inputs | corpus | crashes |\n'
    printf '|---|--:|--:|--:|--:|--:|--:|\n'
    for name in "${targets[@]}"; do
        [[ -z ${rc_of[$name]-} ]] || row "$name"
    done
fi
if [[ -n $bad ]]; then
    crashed "$bad"
    exit 1
fi

# ---- the corpus in the repository: least inputs that reach every edge, those that reach most first
merge_one() { # NAME
    local corpus=tests/fuzz/corpus/$1 found=$build/found/$1 fresh=$TMPDIR/merged-$1 flags
    local control=$TMPDIR/control-$1
    mkdir -p "$corpus" "$found" "$fresh"
    flags_of "$1"
    "$build/fuzz/fuzz_$1" "${flags[@]}" -merge=1 -use_counters=0 -merge_control_file="$control" \
        "$fresh" "$corpus" "$found" >"$build/$1.merge.log" 2>&1 || {
        tail -20 "$build/$1.merge.log" >&2
        printf 'campaign: %s could not be merged; see %s\n' "$1" "$build/$1.merge.log" >&2
        exit 1
    }
    # The control file lists the inputs, then for each "FT number features that no earlier one has".
    # libFuzzer names what it keeps by its digest.
    awk 'NR == 1 {n = $1} NR > 2 && NR <= n + 2 {name[NR - 3] = $0}
         $1 == "FT" {print NF - 2, name[$2]}' "$control" | sort -k1,1nr -k2 |
        cut -d' ' -f2- >"$fresh.order"
    local digest file size n=0 bytes=0 keep=()
    local -A waiting=()
    for file in "$fresh"/*; do
        waiting[${file##*/}]=$file
    done
    while read -r digest _; do
        file=${waiting[$digest]-}
        [[ -n $file ]] || continue
        unset "waiting[$digest]"
        size=$(stat -c %s "$file")
        ((n < max_files && bytes + size <= max_bytes)) || continue
        n=$((n + 1)) bytes=$((bytes + size))
        keep+=("$file")
    done < <(xargs -r -d '\n' sha1sum <"$fresh.order")
    find "$corpus" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    ((${#keep[@]} == 0)) || cp "${keep[@]}" "$corpus"/
    printf 'campaign: %s: %d of %d inputs, %d bytes, and %d with a name\n' "$corpus" "$n" \
        "$(find "$fresh" -type f | wc -l)" "$bytes" \
        "$(($(find "$corpus" -type f | wc -l) - n))" >&2
}
if [[ $merge == yes ]]; then
    for name in "${targets[@]}"; do
        merge_one "$name"
    done
fi
