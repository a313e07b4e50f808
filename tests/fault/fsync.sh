#!/usr/bin/env bash
# A failed fsync ends the process at once, and it starts clean.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/fsync.sh

An fsync of the coordinator fails with EIO: of a checkpoint, of a folder, of the logit bank. It must
stop at once and say why; started again, the job ends with the digests and the history of an
undisturbed one. Needs a build with failpoints (the preset dev).
END
}
NO_ARGUMENTS=yes
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

# fails POINT@N
fails() {
    local job rc=0
    AROUND_COORDINATOR=(env DISTILL_FAILPOINTS="${1%@*}=error:EIO@${1#*@}" ASAN_OPTIONS=handle_abort=0)
    cluster 2
    job=$(submit)
    wait "${PIDS[distilld]}" || rc=$?
    unset "PIDS[distilld]"
    [ $rc -eq 134 ] || fail "the coordinator ended with $rc instead of by abort"
    grep -q "^fsync of $DIR/state/.* failed: Input/output error; stopping" "$DIR/distilld.log" ||
        fail "it does not say why"
    AROUND_COORDINATOR=()
    coordinator
    ended "$job"
    same "$job" "$(grep -o '^fsync of [^ ]*' "$DIR/distilld.log" | sed 's|.*/||')"
}

fault_data
case_of undisturbed undisturbed_job
case_of "first checkpoint" fails file.fsync@3
case_of "later file" fails file.fsync@10
case_of "bank" fails bank.sync@1
table_end
