#!/usr/bin/env bash
# The manual pages: clean roff, every verb, flag and key in them.
. tests/integration/cluster.sh

docs/man/make.sh "$BUILD" "$DIR/man" 0.1.0 2026-01-31
export MANWIDTH=100 LC_ALL=C.UTF-8
pages=(distill.1 distill-job.5 distilld.8 distill-worker.8)
! command -v mandoc >/dev/null || for p in "${pages[@]}"; do
    mandoc -T lint -W style "$DIR/man/$p" >"$DIR/lint" || { cat "$DIR/lint"; fail "$p is not clean"; }
done
command -v man >/dev/null && man -l "$DIR/man/distill.1" >/dev/null 2>&1 || exit 77
for p in "${pages[@]}"; do
    man --warnings -E UTF-8 -l -Tutf8 -Z "$DIR/man/$p" >/dev/null 2>"$DIR/warnings"
    [ ! -s "$DIR/warnings" ] || { cat "$DIR/warnings"; fail "$p has warnings"; }
    man -l "$DIR/man/$p" | col -b >"$DIR/$p.txt"
done

note "verbs and exit codes"
distill help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p' >"$DIR/verbs"
[ "$(wc -l <"$DIR/verbs")" -gt 40 ] || fail "no list of verbs"
while read -r verb; do
    grep -q "^   distill $verb\$" "$DIR/distill.1.txt" || fail "distill(1) does not tell of $verb"
done <"$DIR/verbs"
distill help exit-codes | while read -r code _; do
    grep -q "^       $code " "$DIR/distill.1.txt" || fail "distill(1) lacks exit code $code"
done
grep -q -- '--output-dir DIR' "$DIR/distill.1.txt" || fail "no flags"

note "keys"
distill help job | sed -n 's/^\([a-z][a-z_.]*\) .*/\1/p' | while read -r key; do
    grep -q "^       $key\( \|\$\)" "$DIR/distill-job.5.txt" || fail "distill-job(5) lacks $key"
done

note "flags of the daemons"
for pair in distilld:distilld.8 distill-worker:distill-worker.8; do
    "$BUILD/${pair%:*}" --help | grep -o '^  --[a-z-]*' | while read -r flag; do
        grep -q -- "^       $flag" "$DIR/${pair#*:}.txt" || fail "${pair#*:} lacks $flag"
    done
done
grep -q 'distilld init' "$DIR/distilld.8.txt" || fail "no distilld init"
