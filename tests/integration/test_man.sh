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

# each PAGE BEFORE AFTER LEAST: the page has a line BEFORE WORD AFTER (regular expressions) for every word of the standard
# input, of which there are LEAST or more.
each() {
    local word n=0
    while read -r word _; do
        grep -q -- "^$2$word$3" "$DIR/$1.txt" || fail "$1 lacks $word"
        n=$((n + 1))
    done
    [ $n -ge "$4" ] || fail "only $n were looked for in $1"
}

note "verbs and exit codes"
distill help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p' | each distill.1 '   distill ' '$' 41
distill help exit-codes | each distill.1 '       ' ' ' 10
grep -q -- '--output-dir DIR' "$DIR/distill.1.txt" || fail "no flags"

note "keys"
distill help job | sed -n 's/^\([a-z][a-z_.]*\) .*/\1/p' | each distill-job.5 '       ' '\( \|$\)' 100

note "flags of the daemons"
for daemon in distilld distill-worker; do
    "$BUILD/$daemon" --help | grep -o '^  --[a-z-]*' | each $daemon.8 '       ' '' 10
done
grep -q 'distilld init' "$DIR/distilld.8.txt" || fail "no distilld init"
