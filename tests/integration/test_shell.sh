#!/usr/bin/env bash
# What helps at a shell: completion with live ids, keys explained, a job submitted once more.
. tests/integration/cluster.sh

idle_job once >"$DIR/job.yaml"
coordinator
job=$("$BUILD/distill" submit "$DIR/job.yaml" -q)

note "completion"
for shell in bash zsh fish; do
    "$BUILD/distill" completion $shell >"$DIR/completion.$shell"
    ! command -v $shell >/dev/null || $shell -n "$DIR/completion.$shell" || fail "$shell does not read it"
done
. "$DIR/completion.bash"
distill() { "$BUILD/distill" "$@"; }
complete_as() { # WORD...: what the last one is completed to
    COMP_WORDS=(distill "$@") COMP_CWORD=$# COMPREPLY=()
    _distill
    echo "${COMPREPLY[*]}"
}
[ "$(complete_as expl)" = explain ] || fail "a verb: $(complete_as expl)"
[ "$(complete_as show "${job:0:2}")" = "$job" ] || fail "an id: $(complete_as show "${job:0:2}")"
[[ $(complete_as submit --wa) == *--watch* ]] || fail "a flag: $(complete_as submit --wa)"
[ "$(complete_as context u)" = use ] || fail "a word: $(complete_as context u)"
[ "$(complete_as local "")" = "up down status" ] || fail "words: $(complete_as local "")"
"$BUILD/distill" context add mine --server "$DISTILL_SERVER" >/dev/null
[ "$(complete_as context use m)" = mine ] || fail "a context: $(complete_as context use m)"
[ "$(complete_as jobs --context m)" = mine ] || fail "a flag's context: $(complete_as jobs --context m)"
[ "$(complete_as jobs -o js)" = "json jsonl" ] || fail "a format: $(complete_as jobs -o js)"
rc=0
"$BUILD/distill" completion tcsh 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'one of bash, zsh, fish' "$DIR/err" || fail "tcsh: $rc $(cat "$DIR/err")"

note "explain"
"$BUILD/distill" explain distill.loss.temperature | grep -q '^default  5' || fail "the default is not told"
rc=0
"$BUILD/distill" explain temprature 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'did you mean distill.loss.temperature' "$DIR/err" || fail "nearest: $rc $(cat "$DIR/err")"

note "a name in place of an id"
[ "$("$BUILD/distill" show once -o json | pick 'd["job"]')" = "$job" ] || fail "by name"
twin=$("$BUILD/distill" submit "$DIR/job.yaml" -q)
expect 2 "2 jobs are called once; name one by its id, newest first: $twin, $job" "$BUILD/distill" show once
expect 3 'no job twice here' "$BUILD/distill" show twice
expect 3 'no such job: on ce' "$BUILD/distill" cancel "on ce"
"$BUILD/distill" cancel "$twin" >/dev/null
"$BUILD/distill" rm "$twin" >/dev/null
"$BUILD/distill" pause once >/dev/null
"$BUILD/distill" resume once >/dev/null

note "retry"
rc=0
"$BUILD/distill" retry "$job" 2>"$DIR/err" || rc=$?
[ $rc -eq 5 ] && grep -q 'only a job that is over' "$DIR/err" || fail "a queued one: $rc $(cat "$DIR/err")"
"$BUILD/distill" cancel "$job" >/dev/null
again=$("$BUILD/distill" retry "$job" -q --set distill.epochs=2)
[ -n "$again" ] && [ "$again" != "$job" ] || fail "no new job: $again"
"$BUILD/distill" show "$again" -o json >"$DIR/show.json"
grep -q '"epochs": 2' "$DIR/show.json" || fail "--set was not followed"
grep -q '"name": "once"' "$DIR/show.json" || fail "it is another job"
