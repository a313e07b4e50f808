#!/usr/bin/env bash
# Checks the models of docs/protocol.md with Spin, and that each mutant of them is caught.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/models/run.sh [--quick] [--limit SECONDS] [--only TEXT]

Every line of the table is one search: "proved" (all states seen, no error), "no error yet" (the
limit of time or memory came first), or "caught" with what caught it. Exit code 0 when no error is
found where none is expected and every mutant is caught; 77 when Spin or a C compiler is missing.

  --quick          small bounds and the most telling mutants; about half a minute of one core
  --limit SECONDS  for one search (default 90; 40 with --quick)
  --only TEXT      only the lines that contain TEXT in "MODEL EXPECTED OPTIONS"
END
}

quick=no limit='' only=''
while (($#)); do
    case $1 in
    --quick) quick=yes ;;
    --limit | --only)
        (($# > 1)) || {
            printf 'models: %s needs a value\n' "$1" >&2
            exit 2
        }
        if [[ $1 == --limit ]]; then limit=$2; else only=$2; fi
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        printf 'models: unknown flag "%s"; --help shows them\n' "$1" >&2
        exit 2
        ;;
    esac
    shift
done
if [[ -z $limit ]]; then
    if [[ $quick == yes ]]; then limit=40; else limit=90; fi
fi
[[ $limit =~ ^[1-9][0-9]{0,4}$ ]] || {
    echo "models: --limit is a number of seconds" >&2
    exit 2
}

cc=${CC:-cc}
for tool in spin "$cc"; do
    command -v "$tool" >/dev/null || {
        printf 'models: %s is missing; deploy/install-deps.sh --models installs Spin\n' "$tool" >&2
        exit 77
    }
done
models=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# When (q: also with --quick), model, what is expected, options.
table() {
    cat <<'END'
q kdowner ok     -DBN=1
q kdowner ok     -DBW=1
q kdowner ok     -DBC=1
q kdowner ok     -DBZ=1 -DBM=1
q kdowner ok     -DBC=1 -DCK=3 -DGATE
q kdowner ok     -DBZ=1 -DODD
q kdowner ok     -DNS=2 -DBC=1 -DLIVE
q kdstep  ok     -DNSTEP=2 -DBN=1 -DBR=0
f kdowner ok     -DBW=2
f kdowner ok     -DBC=1 -DBN=1
f kdowner ok     -DBC=1 -DBW=1
f kdowner ok     -DBC=1 -DBW=1 -DCK=3
f kdowner ok     -DBC=1 -DBW=1 -DCK=3 -DGATE
f kdowner ok     -DBC=1 -DBZ=1
f kdowner ok     -DBC=1 -DBM=1
f kdowner ok     -DBC=2
f kdowner ok     -DNS=2 -DBC=2 -DBW=1
f kdowner ok     -DBW=1 -DBZ=1 -DBM=1
f kdowner ok     -DNS=4 -DBC=1
f kdowner ok     -DNS=4 -DBC=1 -DBW=1
f kdowner ok     -DBC=1 -DBW=1 -DBZ=1 -DBM=1 -DBN=1
f kdowner ok     -DNS=2 -DBC=1 -DBW=1 -DLIVE
f kdowner ok     -DBZ=1 -DNO_FENCE
f kdowner ok     -DBC=1 -DNO_FENCE -DKEEPJ
f kdowner ok     -DBC=1 -DNO_FENCE -DSUMCHK
f kdstep  ok     -DNSTEP=3
f kdstep  ok     -DNSTEP=3 -DNONDET -DEPOCHCHK
q kdowner caught -DBW=1 -DINPLACE
q kdowner caught -DBW=1 -DTORN
q kdowner caught -DBW=1 -DDROP_EARLY
q kdowner caught -DBW=1 -DSENDFIRST
q kdowner caught -DBW=1 -DCACHE_DROP
q kdowner caught -DBW=1 -DLOSTUNITS
q kdowner caught -DBW=1 -DFENCE_ALL
q kdowner caught -DBC=1 -DMAXJ
q kdowner caught -DBC=1 -DNOREBUILD
q kdowner caught -DBC=1 -DNO_REPUB
q kdowner caught -DBC=1 -DNO_FENCE
q kdowner caught -DBC=1 -DSKIPWANT
q kdowner caught -DBN=1 -DNO_APPLYCHK
q kdowner caught -DBN=1 -DNO_PUBSTEP
q kdstep  caught -DDOUBLEADD
f kdowner caught -DNS=4 -DBW=1 -DMIXBUF
f kdowner caught -DBC=1 -DKEEP_NOBASE
f kdowner caught -DBC=1 -DKEEP_NOSUM
f kdowner caught -DNS=4 -DBC=1 -DKEEP_NOSAVE
f kdowner caught -DBC=1 -DOLD_ANSWER
f kdowner caught -DBC=1 -DOLD_GRANT
f kdowner caught -DBC=1 -DBN=1 -DAPPLY_UNACKED
f kdowner caught -DBW=1 -DNO_ROOM
f kdowner caught -DBW=1 -DCK=3 -DNO_OLDSUM
f kdowner caught -DBW=1 -DNORESTART
f kdowner caught -DBZ=1 -DODD -DNO_FENCE
f kdowner caught -DBZ=1 -DODD -DNO_FENCE -DSUMCHK
f kdowner caught -DBC=1 -DNO_FENCE -DSUMCHK -DKEEP_NEXT
f kdstep  caught -DNO_STEPCHK
f kdstep  caught -DNONDET
END
}

# search MODEL EXPECTED OPTIONS... : leaves the verifier's output in $work/out; 1 if it could not be made.
search() {
    local model=$1 level=-O1 build=(-DSAFETY) run=()
    if [[ $quick == yes || $2 == caught ]]; then
        level=-O0 # the search is shorter than an optimised build of it
    fi
    shift 2
    rm -rf "$work/run"
    mkdir "$work/run"
    cd "$work/run"
    if [[ " $* " == *' -DLIVE '* ]]; then
        build=(-DNFAIR=4)
        run=(-a -f)
    fi
    cp "$models/$model.pml" .
    nice -n 15 spin -a "$@" "$model.pml" >"$work/out" 2>&1 || return 1
    nice -n 15 "$cc" "$level" -w "${build[@]}" -DCOLLAPSE -DMEMLIM=2500 -o pan pan.c >"$work/out" 2>&1 || return 1
    nice -n 15 timeout -s INT -k 5 "$limit" ./pan "${run[@]}" -m1000000 >"$work/out" 2>&1 || true
    cd "$models"
}

# broken MESSAGE: which property of the model the verifier's message is about.
broken() {
    case $1 in
    'invalid end state'*) echo "no progress" ;;
    *pval*) echo "P1, computed on a mixed version" ;;
    *'bl['*) echo "P2, a slice of another version" ;;
    *ckv*) echo "P3, a manifest of mixed versions" ;;
    *'fil['*) echo "P4, a version was passed over" ;;
    *formed*) echo "P5, the journal ends before T" ;;
    *jend*) echo "P6, a chunk cannot be rebuilt" ;;
    *have*) echo "P1, a slot not summed once" ;;
    *tok*) echo "P2, computed on other parameters" ;;
    *) echo "$1" ;;
    esac
}

# verdict: what the output says, in the words of the table.
verdict() {
    local found
    if found=$(grep -m1 -E '^pan:[0-9]+: ' "$work/out"); then
        found=${found#pan:*: }
        if [[ $found == *'search depth'* ]]; then
            echo "the search is not deep enough"
        else
            printf 'caught: %s\n' "$(broken "${found% (at depth *}")"
        fi
    elif grep -q 'max search depth too small' "$work/out"; then
        echo "the search is not deep enough"
    elif grep -qE 'Search not completed|reached -DMEMLIM' "$work/out"; then
        echo "no error yet"
    elif ! grep -q 'errors: 0' "$work/out"; then
        echo "no result"
    else
        echo proved
    fi
}

row='%-8s %-46s %11s %7s %6s  %-7s %s\n'
# shellcheck disable=SC2059
printf "$row" model options states depth s expected result
bad=0 lines=0
while read -r when model expected options; do
    [[ $quick == no || $when == q ]] || continue
    [[ "$model $expected $options" == *"$only"* ]] || continue
    lines=$((lines + 1))
    read -ra flags <<<"$options"
    begin=$EPOCHREALTIME
    if search "$model" "$expected" "${flags[@]}"; then
        result=$(verdict)
    else
        result="the model does not build: $(grep -m1 -i error "$work/out" || tail -n 1 "$work/out")"
    fi
    seconds=$(((${EPOCHREALTIME/[.,]/} - ${begin/[.,]/}) / 100000))
    states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p; s/^Depth= *[0-9]+ States= *([0-9.e+]+) .*/\1/p' "$work/out" | tail -n 1)
    depth=$(sed -nE 's/.*depth reached ([0-9]+).*/\1/p; s/^Depth= *([0-9]+) .*/\1/p' "$work/out" | tail -n 1)
    case $expected:$result in
    ok:proved | ok:'no error yet' | caught:caught:*) mark= ;;
    *)
        mark=' <-- not as expected'
        bad=$((bad + 1))
        ;;
    esac
    # shellcheck disable=SC2059
    printf "$row" "$model" "$options" "${states:--}" "${depth:--}" "$((seconds / 10)).$((seconds % 10))" \
        "$expected" "$result$mark"
done < <(table)

if ((lines == 0)); then
    printf 'models: no line contains "%s"\n' "$only" >&2
    exit 2
fi
if ((bad > 0)); then
    printf 'models: %d of %d searches did not end as expected\n' "$bad" "$lines" >&2
    exit 1
fi
printf 'models: all %d searches ended as expected\n' "$lines"
