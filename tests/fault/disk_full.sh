#!/usr/bin/env bash
# The coordinator's disk fills up: jobs wait and say why, and go on by themselves when there is room.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/disk_full.sh [CASE...]

The state folder lies on a small tmpfs that is filled while a job runs:

  last-byte    not a byte is left
  min-free     less is left than --min-free
  no-reserve   the last byte, with --min-free 0: the database itself finds no room
  restart      the coordinator is killed on the full disk and started there again
  end          filled when the training is over: the job's files wait
  upload       uploads and jobs are refused with a sentence
  checkpoint   a checkpoint finds no room once            (failpoints, no root needed)
  bank         no logits can be stored                    (likewise)
  files        result.json and a worker's file find none  (likewise)

Each job must end with the digests and the history of an undisturbed one. Without root the cases that
mount are skipped; takes about 2 minutes.
END
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

disk() {
    if [ "$(id -u)" -ne 0 ]; then return 77; fi
    mkdir "$DIR/disk"
    mount -t tmpfs -o size=256M kd-fault "$DIR/disk" 2>/dev/null || return 77
    # Before the folder is removed.
    trap 'finish_after leave' EXIT
}
leave() {
    kill_all 2>/dev/null
    umount -l "$DIR/disk"
}

# fill [KIB]: the disk, but for so much; the job stands still meanwhile.
fill() {
    kill -STOP "${PIDS[w1]}" "${PIDS[w2]}"
    dd if=/dev/zero of="$DIR/disk/filler" bs=64K status=none 2>/dev/null || true
    [ "${1:-0}" -eq 0 ] || truncate -s -"$1"K "$DIR/disk/filler"
    kill -CONT "${PIDS[w1]}" "${PIDS[w2]}"
}
room() { rm "$DIR/disk/filler"; }

start() { # the cluster on the small disk
    COORDINATOR_FLAGS=(--min-free "${1:-16M}")
    coordinator "$DIR/disk/state"
    workers 2
}

has_reason() { distill show "$1" -o json | pick 'd["reason"]' | says "$2"; }
# await_reason JOB TEXT: until the job says so; `distill show` shows it to people, too.
await_reason() {
    await 300 has_reason "$@" || fail "job $1 does not say: $2"
    distill show "$1" | says "$2" || fail "distill show does not tell: $2"
}

# waits_for_room JOB [RESTART]: full in the middle, no step is done; room again, and it ends well.
waits_for_room() {
    local job before after
    job=$(submit)
    await_steps "$job" distill 3
    fill "$1"
    await_reason "$job" "coordinator's disk"
    before=$(step_of "$job")
    if [ "${2-}" = restart ]; then
        stop distilld KILL
        coordinator "$DIR/disk/state"
        await_workers 2
        await_reason "$job" "coordinator's disk"
    fi
    sleep 2
    after=$(step_of "$job")
    [ "$before" = "$after" ] || fail "steps went on without room: $before, $after"
    [ "$(state_of "$job")" = running ] || fail "the job does not run"
    kill -0 "${PIDS[distilld]}" || fail "the coordinator ended"
    room
    ended "$job"
    same "$job" "waited at step $before"
    has_event "$job" "the job goes on" || [ "${2-}" = restart ] || fail "no event says that it goes on"
}

last_byte() {
    disk
    start
    waits_for_room 0
    ! grep -q 'to the last byte' "$DIR/distilld.log" || fail "the reserve did not help"
}
no_reserve() {
    local job
    disk
    start 0
    job=$(submit)
    await_steps "$job" distill 3
    fill
    sleep 4
    kill -0 "${PIDS[distilld]}" || fail "the coordinator ended"
    room
    ended "$job"
    same "$job" "$(grep -c 'to the last byte' "$DIR/distilld.log" || true) time(s) without room for the database"
}
min_free() {
    disk
    start
    waits_for_room 8192
    [ -e "$DIR/disk/state/distilld.reserve" ] || fail "the reserve was given up for nothing"
}
restart() {
    disk
    start
    waits_for_room 0 restart
}

end() {
    local job
    disk
    start
    job=$(submit)
    await_steps "$job" scratch 1
    # Room for what is under way, none for the job's last files.
    fill 512
    await_reason "$job" "coordinator's disk"
    room
    ended "$job"
    same "$job"
    has_event "$job" "the job goes on" || fail "no event says that it goes on"
}

upload() {
    local job rc=0
    disk
    start
    job=$(submit)
    ended "$job"
    distill fetch "$job" student.safetensors -O "$DIR/out" >/dev/null
    cp "$DIR/out/student.safetensors" "$DIR/start.safetensors"
    sed 's/^student: .*/student: {model: shallow_cnn, weights: start.safetensors}/' "$DIR/job.yaml" >"$DIR/from.yaml"
    fill
    for file in job from; do
        rc=0
        distill submit "$DIR/$file.yaml" -q --key "full-$file" >"$DIR/answer" 2>&1 || rc=$?
        [ $rc -ne 0 ] || fail "$file.yaml was taken on a full disk"
        says "the disk of" <"$DIR/answer" && says "not taken" <"$DIR/answer" ||
            fail "no clear sentence: $(cat "$DIR/answer")"
    done
    [ "$(distill jobs -q | wc -l)" -eq 1 ] || fail "a refused job is listed"
    room
    same "$job" "$(head -n 1 "$DIR/answer" | cut -c 1-60)"
    job=$(distill submit "$DIR/from.yaml" -q --key full-from)
    ended "$job"
}

# with FAILPOINTS: a whole job, with the coordinator so armed.
with() {
    AROUND_COORDINATOR=(env DISTILL_FAILPOINTS="$1")
    cluster 2
    JOB=$(submit)
    ended "$JOB"
    grep -q "failpoint ${1%%=*} hit" "$DIR/distilld.log" || fail "nothing failed"
    same "$JOB"
}
checkpoint() {
    with 'checkpoint.write=error:ENOSPC@3'
    has_event "$JOB" "checkpoint of step" || fail "no event tells of it"
    has_event "$JOB" "coordinator's disk" || fail "the job did not say that it waits"
    ! has_event "$JOB" "failed" || fail "a checkpoint was lost"
}
bank() {
    with 'bank.append=error:ENOSPC'
    [ "$(grep -c 'logits are not kept' "$DIR/distilld.log")" -eq 1 ] || fail "not told once"
}
files() {
    with 'result.write=error:ENOSPC@1;artefact.piece=error:ENOSPC@1'
    grep -q 'failpoint artefact.piece hit' "$DIR/distilld.log" || fail "the worker's file found room"
}

fault_data 4
all=(last-byte min-free no-reserve restart end upload checkpoint bank files)
[ $# -gt 0 ] || set -- "${all[@]}"
for name in "$@"; do one_of "$name" "${all[@]}" || no_such case "$name"; done
case_of undisturbed undisturbed_job
for name in "$@"; do case_of "$name" "${name//-/_}"; done
table_end
