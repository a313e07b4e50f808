#!/usr/bin/env bash
# All long fault tests, one after another, and a summary.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/all.sh [--soak MINUTES]

Runs the mutants and models of the protocol, matrix, recovery, failpoints, the cases in net/, proxy,
disk_full, damage, fsync, descriptors, no_workers and soak (5 minutes unless told otherwise), writes
what each said to $KD_FAULT_OUT (a new folder in /tmp) and prints a summary. Takes about an hour on
two cores. Exit code 0 only if nothing failed; what needs root is skipped without it.
END
}
minutes=5
case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
--soak)
    minutes=${2-}
    ;;
?*)
    usage >&2
    exit 2
    ;;
esac
[[ $minutes =~ ^[1-9][0-9]*$ ]] || {
    echo "all.sh: --soak wants whole minutes" >&2
    exit 2
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${KD_FAULT_OUT:-$(mktemp -d "${TMPDIR:-/tmp}/kd-fault-XXXXXX")}
mkdir -p "$out"

failed=0
summary=()
run() { # LABEL COMMAND...
    local label=$1 rc=0 begun=$SECONDS verdict=ok
    shift
    echo "== $label"
    "$@" 2>&1 </dev/null | tee "$out/$label.out" || rc=${PIPESTATUS[0]}
    [ "$rc" -eq 0 ] || verdict=FAIL
    [ "$rc" -ne 77 ] || verdict=skipped
    [ $verdict != FAIL ] || failed=$((failed + 1))
    summary+=("$(printf '%-22s %-7s %5ss  %s' "$label" $verdict $((SECONDS - begun)) "$(tail -n 1 "$out/$label.out")")")
}

run mutants tests/sim/mutants.sh --seeds 2000
run models tests/models/run.sh
run matrix tests/fault/matrix.sh
run recovery tests/fault/recovery.sh
run failpoints tests/fault/failpoints.sh
for case in tests/fault/net/*.sh; do run "net-$(basename "$case" .sh)" "$case"; done
run proxy tests/fault/proxy.sh
for case in disk_full damage fsync descriptors no_workers; do run $case tests/fault/$case.sh; done
run soak tests/fault/soak.sh "$minutes"

echo "== summary ($out)"
printf '%s\n' "${summary[@]}"
[ $failed -eq 0 ]
