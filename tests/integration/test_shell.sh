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
rc=0
"$BUILD/distill" completion tcsh 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'one of bash, zsh, fish' "$DIR/err" || fail "tcsh: $rc $(cat "$DIR/err")"

note "explain"
"$BUILD/distill" explain distill.loss.temperature | grep -q '^default  5' || fail "the default is not told"
rc=0
"$BUILD/distill" explain temprature 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'did you mean distill.loss.temperature' "$DIR/err" || fail "nearest: $rc $(cat "$DIR/err")"

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
