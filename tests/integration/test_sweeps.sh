#!/usr/bin/env bash
# A sweep: children from one file, teacher and twin made once, logits computed once, the same digests as the
# same jobs alone; a child that fails or is cancelled keeps nobody; the sweep's own result.
. tests/integration/cluster.sh
needs_grpc

submit() { # submit FILE [JSON]: SubmitRequest with a text of FILE; prints the reply
    call Submit "$(/usr/bin/python3 -c '
import json, sys
r = {"key": sys.argv[1].rsplit("/", 1)[1], "text": open(sys.argv[1]).read()}
r.update(json.loads(sys.argv[2]))
print(json.dumps(r))' "$1" "${2-{\}}")"
}

# shared JOB STAGE: the job that made the stage, empty if it is the job's own.
shared() { stage_field "$1" "$2" shared | sed 's/^None$//'; }

small_data
small_job >"$DIR/job.yaml"
{ small_job; echo 'matrix: {distill.loss.temperature: [1, 2, 5, 10]}'; } >"$DIR/sweep.yaml"
coordinator
worker a
worker b
await_workers 2

note "one of the jobs alone, on a bank of its own"
alone=$(distill submit "$DIR/job.yaml" --set distill.loss.temperature=5 -q)
distill wait "$alone" --timeout 10m
want=$(digests "$alone")
stop distilld
DISTILL_SERVER=
coordinator "$DIR/state-sweep"
stop a
stop b
worker a
worker b
await_workers 2

note "a dry run stores nothing"
submit "$DIR/sweep.yaml" '{"dry_run": true}' >"$DIR/reply"
pick 'd["notes"]' <"$DIR/reply" | says 'a sweep of 4 jobs' || fail "no note: $(cat "$DIR/reply")"
[ "$(pick 'json.loads(d["resolved"])["distill"]["loss"]["temperature"]' <"$DIR/reply")" = 1.0 ] || fail "not the first child"
[ "$(call List '{}' | pick 'len(d["jobs"])')" -eq 0 ] || fail "a dry run stored something"

note "four temperatures: one teacher, one twin, one run of the bank"
submit "$DIR/sweep.yaml" >"$DIR/reply"
sweep=$(pick 'd["job"]' <"$DIR/reply")
read -r -a child <<<"$(pick '" ".join(d["children"])' <"$DIR/reply")"
[ "${#child[@]}" -eq 4 ] || fail "${#child[@]} children"
for c in "${child[@]}"; do [ "$c" != "$sweep" ] || fail "the sweep is its own child"; done
submit "$DIR/sweep.yaml" >"$DIR/again"
[ "$(pick '[d["job"], d["existed"]] + d["children"]' <"$DIR/again")" = \
  "$(pick '[d["job"], True] + d["children"]' <"$DIR/reply")" ] || fail "a repeat made another sweep"
call List '{}' >"$DIR/list"
[ "$(pick 'len(d["jobs"])' <"$DIR/list")" -eq 5 ] || fail "not five jobs"
[ "$(pick 'd["jobs"][0]["job"]' <"$DIR/list")" = "$sweep" ] || fail "the sweep does not come first"
[ "$(pick 'd["jobs"][0]["children"]' <"$DIR/list")" -eq 4 ] || fail "children are not counted"
[ "$(pick '[j["label"] for j in d["jobs"][1:]]' <"$DIR/list")" = \
  "['distill.loss.temperature=1', 'distill.loss.temperature=2', 'distill.loss.temperature=5', 'distill.loss.temperature=10']" ] ||
    fail "labels"
has_event "${child[1]}" 'waits for the teacher of job' || fail "the second child does not say what it waits for"
distill wait "$sweep" --timeout 10m >/dev/null || fail "the sweep did not succeed"
call Get "{\"job\": \"$sweep\"}" >"$DIR/detail"
[ "$(pick '[j["state"] for j in d["jobs"]]' <"$DIR/detail")" = "['JOB_STATE_SUCCEEDED', 'JOB_STATE_SUCCEEDED', 'JOB_STATE_SUCCEEDED', 'JOB_STATE_SUCCEEDED']" ] ||
    fail "states of the children"
[ "$(pick 'd["summary"]["children_over"]' <"$DIR/detail")" -eq 4 ] || fail "children over"
cmp -s <(pick 'd["text"]' <"$DIR/detail") <(cat "$DIR/sweep.yaml"; echo) || fail "the text is not kept"
forwards=0 hits=0
for c in "${child[@]}"; do
    f=$(stage_field "$c" distill teacher_forwards) h=$(stage_field "$c" distill bank_hits)
    echo "$c: forwards $f, hits $h, shared teacher $(shared "$c" teacher), twin $(shared "$c" scratch)"
    forwards=$((forwards + f)) hits=$((hits + h))
    [ "$(stage_field "$c" teacher digest)" = "$(stage_field "${child[0]}" teacher digest)" ] || fail "another teacher"
done
# 90 pictures to train on in one view, 37 to validate on.
[ "$forwards" -eq 127 ] || fail "$forwards teacher inferences for 127 pictures"
[ "$hits" -ge $((3 * 127)) ] || fail "$hits hits"
for c in "${child[@]:1}"; do
    [ "$(shared "$c" teacher)" = "${child[0]}" ] || fail "the teacher of $c is not that of ${child[0]}"
    [ "$(shared "$c" scratch)" = "${child[0]}" ] || fail "the twin of $c is not that of ${child[0]}"
    [ "$(shared "$c" distill)" = "" ] || fail "a student was shared"
    distill fetch "$c" -O "$DIR/fetched-$c" teacher.safetensors >/dev/null || fail "no teacher to fetch from $c"
done
[ "$(digests "${child[2]}")" = "$want" ] || fail "digests $(digests "${child[2]}"), alone they are $want"
pick 'd["result"]' <"$DIR/detail" >"$DIR/result"
[ "$(pick 'len(d["groups"]), len(d["children"]), d["bank"]["computed"]' <"$DIR/result")" = "(4, 4, 127)" ] || fail "the sweep's result"
[ "$(pick 'd["children"][2]["values"]' <"$DIR/result")" = "{'distill.loss.temperature': 5}" ] || fail "values"
[ "$(pick 'd["groups"][0]["difference_over"], d["groups"][0]["gain"] in ("gain", "no gain", "loss")' <"$DIR/result")" = "('samples', True)" ] || fail "the difference from the twin"
pick 'd["best"]' <"$DIR/result" >"$DIR/best"
grep -qF "$(cat "$DIR/best")" <<<"${child[*]}" || fail "the best is none of the children"

note "a child that is replayed alone has the same digest"
again=$(call Submit "{\"key\": \"replay\", \"replay_job\": \"${child[3]}\"}" | pick 'd["job"]')
distill wait "$again" --timeout 10m >/dev/null
[ "$(digests "$again")" = "$(digests "${child[3]}")" ] || fail "a replay of a child differs"

note "rm of a child is refused, rm of the sweep takes them all"
! call Remove "{\"job\": \"${child[1]}\"}" 2>"$DIR/err" || fail "a child was removed alone"
grep -q "belongs to sweep $sweep" "$DIR/err" || fail "$(cat "$DIR/err")"
call Remove "{\"job\": \"$sweep\"}" >/dev/null
for j in "$sweep" "${child[@]}"; do [ ! -e "$DIR/state-sweep/jobs/$j" ] || fail "files of $j are left"; done
call Get "{\"job\": \"$again\"}" >/dev/null || fail "the replay went with the sweep"

note "the owner of a teacher is cancelled: the next child makes it; seeds share it"
{ small_job | sed 's/epochs: 2/epochs: 1/; s/fine_tune: {epochs: 1/fine_tune: {epochs: 6/'; echo 'seeds: 3'; } >"$DIR/seeds.yaml"
submit "$DIR/seeds.yaml" >"$DIR/reply"
sweep=$(pick 'd["job"]' <"$DIR/reply")
read -r -a child <<<"$(pick '" ".join(d["children"])' <"$DIR/reply")"
await_steps "${child[0]}" teacher 1
call Cancel "{\"job\": \"${child[0]}\"}" >/dev/null
rc=0; distill wait "$sweep" --timeout 10m >/dev/null || rc=$?
[ $rc -eq 8 ] || fail "wait of a sweep with a cancelled child: exit code $rc"
[ "$(shared "${child[1]}" teacher)" = "" ] || fail "the second child has not made the teacher"
[ "$(shared "${child[2]}" teacher)" = "${child[1]}" ] || fail "the third child has not taken it over"
[ "$(stage_field "${child[2]}" distill teacher_forwards)" -eq 0 ] || fail "seeds do not share the bank"
[ "$(stage_field "${child[1]}" distill digest)" != "$(stage_field "${child[2]}" distill digest)" ] ||
    fail "two seeds made one student"
[ "$(shared "${child[1]}" scratch)$(shared "${child[2]}" scratch)" = "" ] ||
    fail "twins of two seeds were shared"
call Get "{\"job\": \"$sweep\"}" | pick 'd["result"]' | pick 'd["groups"][0]["n"]' >"$DIR/n"
[ "$(cat "$DIR/n")" -eq 2 ] || fail "the group has $(cat "$DIR/n") seeds"

! call Submit "{\"key\": \"replay of a seed\", \"replay_job\": \"${child[2]}\"}" 2>"$DIR/err" || fail "a key with blanks was taken"
again=$(call Submit "{\"key\": \"replay-seed\", \"replay_job\": \"${child[2]}\"}" | pick 'd["job"]')
distill wait "$again" --timeout 10m >/dev/null
[ "$(digests "$again")" = "$(digests "${child[2]}")" ] || fail "a child on a shared teacher differs from the same job alone"

note "children side by side, each on one worker: the second waits for teacher and twin of the first"
{ small_job | sed 's/max_workers: 8/max_workers: 1/'; echo 'matrix: {distill.loss.temperature: [5, 10]}'; } >"$DIR/side.yaml"
submit "$DIR/side.yaml" >"$DIR/reply"
sweep=$(pick 'd["job"]' <"$DIR/reply")
read -r -a child <<<"$(pick '" ".join(d["children"])' <"$DIR/reply")"
distill wait "$sweep" --timeout 10m >/dev/null || fail "the sweep did not succeed"
[ "$(digests "${child[0]}")" = "$want" ] || fail "digests $(digests "${child[0]}"), alone they are $want"
[ "$(shared "${child[1]}" teacher) $(shared "${child[1]}" scratch)" = "${child[0]} ${child[0]}" ] || fail "nothing was shared"

note "two equal teachers: each is taken over as the one of its place"
{ small_job | awk '/^teacher:/ { print; for (i = 0; i < 2; i++) print "  - {model: mlp, hidden: [32], fine_tune: {epochs: 1}}"; skip = 1; next }
    /^[a-z]/ { skip = 0 } !skip'; echo 'matrix: {distill.loss.temperature: [5, 10]}'; } >"$DIR/twice.yaml"
submit "$DIR/twice.yaml" >"$DIR/reply"
sweep=$(pick 'd["job"]' <"$DIR/reply")
read -r -a child <<<"$(pick '" ".join(d["children"])' <"$DIR/reply")"
distill wait "$sweep" --timeout 10m >/dev/null || fail "the sweep with two teachers did not succeed"
for s in teacher teacher2; do
    [ "$(shared "${child[0]}" $s) $(shared "${child[1]}" $s)" = " ${child[0]}" ] || fail "$s of the second child is made by $(shared "${child[1]}" $s)"
done
distill fetch "${child[1]}" -O "$DIR/fetched-twice" teacher2.safetensors >/dev/null || fail "no second teacher to fetch"

note "cancel of a sweep"
submit "$DIR/sweep.yaml" '{"key": "third"}' >"$DIR/reply"
sweep=$(pick 'd["job"]' <"$DIR/reply")
call Cancel "{\"job\": \"$sweep\"}" | pick 'd["state"]' >"$DIR/word"
[ "$(cat "$DIR/word")" = JOB_STATE_CANCELLED ] || fail "the sweep is $(cat "$DIR/word")"
[ "$(call Get "{\"job\": \"$sweep\"}" | pick '[j["state"] for j in d["jobs"]].count("JOB_STATE_CANCELLED")')" -eq 4 ] ||
    fail "not all children are cancelled"

note "data that change in between fail the child, and say so"
{ small_job | sed 's/epochs: 2/epochs: 20/'; echo 'matrix: {distill.loss.temperature: [3, 4]}'; } >"$DIR/changing.yaml"
submit "$DIR/changing.yaml" >"$DIR/reply"
read -r -a child <<<"$(pick '" ".join(d["children"])' <"$DIR/reply")"
await_steps "${child[0]}" distill 1
f=$(head -n 1 "$DIR/data/flowers/train.txt" | cut -f 1)
printf 'x' >>"$DIR/data/flowers/$f"
stop a
stop b
worker a
rc=0; distill wait "${child[1]}" --timeout 10m >"$DIR/out" 2>&1 || rc=$?
[ $rc -eq 7 ] || fail "a child on other data ended with $rc"
call Get "{\"job\": \"${child[1]}\"}" | pick 'd["summary"]["reason"]' | says 'the data have changed: stage teacher of job' ||
    fail "$(call Get "{\"job\": \"${child[1]}\"}" | pick 'd["summary"]["reason"]')"
