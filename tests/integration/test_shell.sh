#!/usr/bin/env bash
# What helps at a shell: completion with live ids, keys explained, a job submitted once more.
. tests/integration/cluster.sh

idle_job once >"$DIR/job.yaml"
coordinator
job=$("$BUILD/distill" submit "$DIR/job.yaml" -q)

note "completion: live ids, also after flags before the verb, in each shell"
"$BUILD/distill" context add mine --server "$DISTILL_SERVER" >/dev/null
mkdir "$DIR/bin" "$DIR/here" "$DIR/here/folder"
ln -s "$(realpath "$BUILD")/distill" "$DIR/bin/distill"
echo >"$DIR/here/job.yaml"
export PATH=$DIR/bin:$PATH
for shell in bash zsh fish; do
    distill completion $shell >"$DIR/completion.$shell"
    command -v $shell >/dev/null || { echo "no $shell here: its script is not run"; continue; }
    $shell -n "$DIR/completion.$shell" || fail "$shell does not read it"
done
. "$DIR/completion.bash"
complete_as() { # WORD...: what the last one is completed to; of bash, which parts --a=b into three words
    COMP_WORDS=(distill "$@") COMP_CWORD=$# COMPREPLY=()
    _distill 2>/dev/null
    echo "${COMPREPLY[*]}"
}
[ "$(complete_as expl)" = explain ] || fail "a verb: $(complete_as expl)"
[ "$(complete_as show "${job:0:2}")" = "$job" ] || fail "an id: $(complete_as show "${job:0:2}")"
[ "$(complete_as --context mine show "")" = "$job" ] || fail "after a flag: $(complete_as --context mine show "")"
[ "$(complete_as jobs --state = ru)" = running ] || fail "a value: $(complete_as jobs --state = ru)"
[ "$(complete_as jobs --state =)" = "queued paused running succeeded failed cancelled" ] || fail "values: $(complete_as jobs --state =)"
[ "$(complete_as submit --set distill.ep)" = "distill.epochs=" ] || fail "a key: $(complete_as submit --set distill.ep)"
[ "$(complete_as jobs -o js)" = "json jsonl" ] || fail "a format: $(complete_as jobs -o js)"
[ "$(complete_as retention set keep_up)" = "keep_uploads= keep_uploads_size=" ] || fail "a rule: $(complete_as retention set keep_up)"
# typed SHELL LINE: what a shell on a terminal makes of the line and a tab, which is printed by its `echo`.
typed() { /usr/bin/python3 tests/integration/typed.py "$1" "$DIR/completion.$1" "$DIR/here" "$2"; }
for shell in bash zsh; do
    command -v $shell >/dev/null || continue
    while IFS='|' read -r line expected; do
        got=$(typed $shell "$line")
        [ "$got" = "$expected" ] || fail "$shell: \"$line\" became \"$got\", \"$expected\" was expected"
    done <<END
distill expl|distill explain
distill show ${job:0:2}|distill show $job
distill --context=mine show ${job:0:2}|distill --context=mine show $job
distill --server $DISTILL_SERVER show ${job:0:2}|distill --server $DISTILL_SERVER show $job
distill jobs --state=ru|distill jobs --state=running
distill jobs --no-c|distill jobs --no-color
distill explain distill.loss.temp|distill explain distill.loss.temperature
distill context use m|distill context use mine
distill submit jo|distill submit job.yaml
distill export job.yaml -O fol|distill export job.yaml -O folder/
END
done
if command -v fish >/dev/null; then
    fished() { (cd "$DIR/here" && fish -c ". $DIR/completion.fish; complete -C'$1'" | cut -f1 | tr '\n' ' '); }
    while IFS='|' read -r line expected; do
        got=$(fished "$line")
        [ "$got" = "$expected " ] || fail "fish: \"$line\": \"$got\", \"$expected\" was expected"
    done <<END
distill expl|explain
distill --context mine show ${job:0:2}|$job
distill jobs --state=ru|--state=running
distill jobs --no-c|--no-color
distill context use m|mine
distill local |down status up
distill submit jo|job.yaml
END
fi
rc=0
"$BUILD/distill" completion tcsh 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'one of bash, zsh, fish' "$DIR/err" || fail "tcsh: $rc $(cat "$DIR/err")"

note "explain"
"$BUILD/distill" explain distill.loss.temperature | grep -q '^default  5' || fail "the default is not told"
rc=0
"$BUILD/distill" explain temprature 2>"$DIR/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'did you mean distill.loss.temperature' "$DIR/err" || fail "nearest: $rc $(cat "$DIR/err")"
distill explain distill.loss.temperature -o json | pick 'd["key"], d["default"]' | says "('distill.loss.temperature', '5')" || fail "in JSON"

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
[ "$("$BUILD/distill" show once -o json | pick 'd["job"]')" = "$again" ] || fail "the name does not mean the one that is not over"
"$BUILD/distill" cancel once >/dev/null
expect 2 "2 jobs are called once; name one by its id, newest first: $again, $job" "$BUILD/distill" show once

note "list in pages, rm by name"
for _ in 1 2 3; do "$BUILD/distill" submit "$DIR/job.yaml" -q --set name=many >/dev/null; done
all=$("$BUILD/distill" jobs -q)
[ "$(call List '{"limit": 2}' | pick '[j["job"] for j in d["jobs"]]')" = "$(head -2 <<<"$all" | /usr/bin/python3 -c 'import sys; print(sys.stdin.read().split())')" ] ||
    fail "the first page"
before=$(sed -n 2p <<<"$all")
[ "$(call List "{\"limit\": 2, \"before\": \"$before\"}" | pick '[j["job"] for j in d["jobs"]]')" = \
    "$(sed -n 3,4p <<<"$all" | /usr/bin/python3 -c 'import sys; print(sys.stdin.read().split())')" ] || fail "the second page"
[ "$(call List "{\"before\": \"$(tail -1 <<<"$all")\"}" | pick 'len(d["jobs"])')" = 0 ] || fail "there is nothing before the first job"
rc=0
call List '{"before": "000000000000"}' >"$DIR/out" 2>&1 || rc=$?
[ $rc -ne 0 ] && says NOT_FOUND <"$DIR/out" || fail "before a job that is not there: $(cat "$DIR/out")"
alone=$("$BUILD/distill" submit "$DIR/job.yaml" -q --set name=alone)
"$BUILD/distill" cancel alone >/dev/null
[ "$("$BUILD/distill" rm alone -o json | pick 'd["removed"][0]["job"]')" = "$alone" ] || fail "rm does not tell the id"
