#!/usr/bin/env bash
# A copy of a running coordinator's state, restored elsewhere: the job in it ends with the same bits.
. tests/integration/cluster.sh
command -v sqlite3 >/dev/null || { echo "no sqlite3 here"; exit 77; }

small_cluster a b
before=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$before" --timeout 10m >/dev/null
distill fetch "$before" -O "$DIR/before" >/dev/null

note "copies of a coordinator at work, a step or two apart"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 --set seed=4 -q)
for step in 2 5 9 14; do
    await_steps "$job" distill $step
    deploy/backup.sh make "$DIR/state" "$DIR/copy-$step"
    deploy/backup.sh check "$DIR/copy-$step"
done
expect 1 "is there already" deploy/backup.sh make "$DIR/state" "$DIR/copy-2"
expect 1 "is no state folder" deploy/backup.sh make "$DIR/data" "$DIR/copy-x"
distill wait "$job" --timeout 10m >/dev/null
want=$(digests "$job")
[ -n "${want// /}" ] || fail "no digests"
[ "$(stage_field "$job" distill steps_redone)" = 0 ] || fail "copying cost steps"
for p in a b distilld; do stop $p; done

for step in 2 9 14; do
    note "restored from step $step, in another folder"
    deploy/backup.sh restore "$DIR/copy-$step" "$DIR/restored-$step"
    [ "$(sqlite3 "$DIR/restored-$step/distilld.db" "SELECT value FROM meta WHERE name = 'epoch'")" -gt 1000 ] || fail "generations may come again"
    coordinator "$DIR/restored-$step"
    worker a
    worker b
    distill wait "$job" --timeout 10m >/dev/null || fail "the job did not end well"
    [ "$(digests "$job")" = "$want" ] || fail "$(digests "$job") instead of $want"
    distill fetch "$before" -O "$DIR/after-$step" >/dev/null
    cmp "$DIR/before/student.safetensors" "$DIR/after-$step/student.safetensors" || fail "another student"
    ! grep -E 'checkpoint|artefact' "$DIR/distilld.log" | grep -E 'damaged|missing' || fail "files were missing"
    for p in a b distilld; do stop $p; done
done
expect 1 "is not empty" deploy/backup.sh restore "$DIR/copy-2" "$DIR/restored-2"

note "a copy that lacks a file is told, not restored"
rm "$(find "$DIR/copy-14/jobs/$job" -name '*.safetensors' | head -n 1)"
expect 1 "lacks 1 files that its database names" deploy/backup.sh check "$DIR/copy-14"
expect 1 "lacks 1 files" deploy/backup.sh restore "$DIR/copy-14" "$DIR/restored-x"

note "a database of a newer program is refused"
deploy/backup.sh restore "$DIR/copy-2" "$DIR/newer"
sqlite3 "$DIR/newer/distilld.db" 'PRAGMA user_version = 99'
expect 75 "use the program that wrote it or a newer one" "$BUILD/distilld" --state-dir "$DIR/newer" --listen 127.0.0.1:0
