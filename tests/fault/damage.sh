#!/usr/bin/env bash
# Stored files are damaged while the coordinator is down: it names them and goes on from what is good.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/damage.sh [KIND...]

Coordinator and workers are killed in the middle of a job; one file is truncated, gets a bit flipped at
its start, middle or end, or is removed; all are started again. KINDs:

  checkpoint  the one to go on from; and all of the stage
  journal     the newest file
  bank        the logits, and their description
  database    refused with exit code 65 and what to do; with the old file back it goes on

The job must end with the digests and the history of an undisturbed one, and something must have named
the file. Takes about 5 minutes.
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

# Paths of files are stored, so the folder is the same one in all cases.
STATE=$DIR/state
SAVED=$DIR/saved
CLEAN=$DIR/clean

# In the middle of an epoch, with a checkpoint and sums after it.
prepare() {
    local job
    # Slow enough to be caught before its last step, after which no training logits are read.
    AROUND_COORDINATOR=(env DISTILL_FAILPOINTS="exchange.commit=delay:100")
    coordinator "$STATE"
    AROUND_COORDINATOR=()
    workers 2
    job=$(submit)
    await_steps "$job" distill 14
    kill_all
    echo "$job" >"${WANT%/want}/job"
    cp -a "$STATE" "$SAVED"
    tell "$(ls "$STATE/jobs/$job" | tr '\n' ' ')"
    # The same with all of the database in one file.
    coordinator "$STATE"
    stop distilld
    cp -a "$STATE" "$CLEAN"
}

damage() { # WAY FILE
    local size
    [ -e "$2" ] || fail "there is no file to damage: $2"
    size=$(stat -c %s "$2")
    [ "$size" -gt 0 ] || fail "$2 is empty"
    case $1 in
    truncate) truncate -s $((size * 2 / 3)) "$2" ;;
    start) flip "$2" 2 ;;
    middle) flip "$2" $((size / 2)) ;;
    end) flip "$2" $((size - 1)) ;;
    page) dd if=/dev/urandom of="$2" bs=4096 seek=1 count=1 conv=notrunc status=none ;;
    remove) rm "$2" ;;
    esac
}
flip() {
    /usr/bin/python3 - "$1" "$2" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    b = f.read(1)
    f.seek(int(sys.argv[2]))
    f.write(bytes([b[0] ^ 0x10]))
PY
}

fresh() { # TEMPLATE
    rm -rf "$STATE"
    cp -a "$1" "$STATE"
    JOB=$(cat "${WANT%/want}/job")
}

resume() {
    coordinator "$STATE"
    worker w1
    worker w2
    ended "$JOB"
}

# named FILE: the log or an event does it.
named() {
    { cat "$DIR/distilld.log"; distill events "$JOB"; } | grep -E 'WARN|warning' | says "$1" ||
        fail "nothing names $1"
}

# file WAY FUNCTION ARGUMENTS: the function prints what is damaged. NAMED=no: its loss leaves no trace.
file() {
    local way=$1 f files
    shift
    fresh "$SAVED"
    files=$("$@")
    for f in $files; do damage "$way" "$f"; done
    resume
    [ "${NAMED-}" = no ] || for f in $files; do named "$f"; done
    same "$JOB" "$(basename "$f")"
}
# The one that the stage would go on from; a newer one may wait for its evaluation.
checkpoint() {
    /usr/bin/python3 - "$SAVED/distilld.db" <<PY
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
(version,), = db.execute("SELECT manifest FROM stages WHERE name = 'distill'")
print("$STATE/jobs/$JOB/stage1-version%d.safetensors" % version)
PY
}
checkpoints() { find "$STATE" -name 'stage1-version*.safetensors'; }
journal() {
    local all
    all=$(find "$STATE" -name 'stage1-journal-*' | sort -t- -k3 -rn)
    sed -n 1p <<<"$all"
}
bank() { find "$STATE/bank" -name "$1"; }
all_checkpoints() {
    local f
    fresh "$SAVED"
    for f in $(checkpoints); do damage middle "$f"; done
    resume
    named "stage1-version" # which of them it came upon first
    has_event "$JOB" "going back to step 0" || fail "no event says that it begins again"
    same "$JOB"
}

started_or_ended() { [ -s "$DIR/port" ] || ! kill -0 "${PIDS[refused]}" 2>/dev/null; }
# refused WAY: or not noticed by SQLite and of no consequence.
database() {
    local way=$1 rc=0
    fresh "$CLEAN"
    damage "$way" "$STATE/distilld.db"
    "$BUILD/distilld" --state-dir "$STATE" --listen 127.0.0.1:0 --port-file "$DIR/port" \
        >"$DIR/refusal.log" 2>&1 &
    PIDS[refused]=$!
    await 100 started_or_ended || true
    if [ -s "$DIR/port" ]; then
        stop refused KILL
        [ "$way" = middle ] || [ "$way" = end ] || fail "a database so damaged was taken"
        resume
        same "$JOB" "not noticed, not needed"
        return
    fi
    wait "${PIDS[refused]}" || rc=$?
    unset "PIDS[refused]"
    [ $rc -eq 65 ] || fail "it ended with $rc"
    says "$STATE/distilld.db" <"$DIR/refusal.log" && says "Put back a copy" <"$DIR/refusal.log" ||
        fail "no clear sentence: $(cat "$DIR/refusal.log")"
    [ -d "$STATE/jobs/$JOB" ] || fail "the job's files are gone"
    fresh "$CLEAN"
    resume
    same "$JOB" "$(grep -o ' is .*' "$DIR/refusal.log" | head -n 1 | cut -c 1-50)"
}

fault_data 4
kinds=(checkpoint journal bank database)
[ $# -gt 0 ] || set -- "${kinds[@]}"
case_of undisturbed undisturbed_job
case_of prepare prepare
[ $FAILED -eq 0 ] || { table_end; exit 1; }
for kind in "$@"; do
    case $kind in
    checkpoint)
        for way in truncate start middle end remove; do case_of "checkpoint $way" file $way checkpoint; done
        case_of "checkpoint all" all_checkpoints
        ;;
    journal)
        for way in truncate start middle end; do case_of "journal $way" file $way journal; done
        NAMED=no
        case_of "journal remove" file remove journal
        NAMED=
        ;;
    bank)
        for way in truncate start middle end; do case_of "bank $way" file $way bank records.bin; done
        case_of "bank description" file start bank bank.json
        NAMED=no
        case_of "bank remove" file remove bank records.bin
        NAMED=
        ;;
    database) for way in truncate start page middle end remove; do case_of "database $way" database $way; done ;;
    *) no_such kind "$kind" ;;
    esac
done
table_end
