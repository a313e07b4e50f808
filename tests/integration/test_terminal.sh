#!/usr/bin/env bash
# What people see on a terminal and elsewhere: the live line, colours and who turns them off; and how soon an answer is there.
. tests/integration/cluster.sh
command -v script >/dev/null || { echo "no script(1) here"; exit 77; }

# on_terminal COMMAND...: its output, with a terminal of 100 columns for standard output and error.
on_terminal() {
    local quoted
    printf -v quoted '%q ' "$BUILD/distill" "$@"
    env TERM="${TERMINAL:-xterm}" script -qec "stty cols 100; $quoted" /dev/null </dev/null
}
escape=$'\033'
# matches PATTERN COMMAND...: of its output, all of which is read.
matches() {
    local pattern=$1 all; shift
    all=$("$@" 2>&1) || fail "$*: $all"
    grep -qaE -- "$pattern" <<<"$all"
}
colours="$escape\\[(1|2|3[0-7])m"

small_cluster one
job=$(distill submit "$DIR/job.yaml" --wait -q)

note "colours on a terminal only, and where nobody asked for none"
matches "$colours" on_terminal jobs || fail "no colour on a terminal: $(on_terminal jobs | cat -v)"
matches "$escape" distill jobs && fail "control characters in a pipe"
NO_COLOR=1 matches "$colours" on_terminal jobs && fail "NO_COLOR is not followed"
NO_COLOR='' matches "$colours" on_terminal jobs || fail "an empty NO_COLOR counts"
matches "$colours" on_terminal jobs --no-color && fail "--no-color is not followed"
TERMINAL=dumb matches "$escape" on_terminal jobs && fail "control characters on a dumb terminal"

note "progress: a bar with rate and time to go on a terminal, plain lines elsewhere"
long=$(distill continue "$job" --epochs 200 -q)
timeout -s INT 8 env TERM=xterm script -qec "stty cols 100; '$BUILD/distill' watch $long" "$DIR/watched" </dev/null >/dev/null || true
grep -aE 'distill 2/.*\[[^]]*\].* img/s +ETA ' "$DIR/watched" >/dev/null || fail "no live line: $(cat -v "$DIR/watched" | tail -5)"
timeout -s INT 4 "$BUILD/distill" watch "$long" >"$DIR/plain" 2>&1 || true
grep -E '^[0-9:.]+  progress +distill ' "$DIR/plain" >/dev/null || fail "no plain line: $(cat "$DIR/plain")"
grep -q "$escape" "$DIR/plain" && fail "control characters in a pipe"
distill cancel "$long" >/dev/null

note "replay and verify say how far they are, on standard error"
distill replay "$job" -o json >"$DIR/replayed" 2>"$DIR/talk" || fail "$(cat "$DIR/talk")"
grep -qE 'progress +(teacher|distill|scratch) ' "$DIR/talk" || fail "replay waits without a word: $(cat "$DIR/talk")"
pick 'd["equal"]' <"$DIR/replayed" | says True || fail "it came out as another"
NO_COLOR=1 on_terminal verify "$job" >"$DIR/verified" || fail "$(cat -v "$DIR/verified")"
grep -aE '(teacher|distill|scratch) [0-9]/.*\[[^]]*\]' "$DIR/verified" >/dev/null || fail "verify waits without a word: $(cat -v "$DIR/verified")"
grep -aE "$colours" "$DIR/verified" && fail "NO_COLOR is not followed"

note "a bar where files are fetched"
bar='\[[^]]*\] +[0-9]+ %  [0-9.]+ [kM]?B/[0-9.]+ [kM]?B '
matches "$bar" on_terminal fetch "$job" -O "$DIR/got" || fail "no bar"
matches "$bar" distill fetch "$job" -O "$DIR/again" && fail "a bar in a pipe"

note "answers in less than a second (the best of five, for other work on this machine)"
for words in version help "jobs" "show $job" "explain distill.loss.temperature" "completion words -- show "; do
    best=9999
    for _ in 1 2 3 4 5; do
        begun=$(date +%s%N)
        # shellcheck disable=SC2086
        distill $words >/dev/null
        took=$((($(date +%s%N) - begun) / 1000000))
        best=$((took < best ? took : best))
    done
    echo "distill $words: $best ms"
    [ $best -lt 1000 ] || fail "distill $words took $best ms"
done
