#!/usr/bin/env bash
# Manual pages out of what the programs say of themselves: make.sh BIN OUT VERSION DATE.
# BIN has the three programs; OUT gets distill.1, distill-job.5, distilld.8, distill-worker.8.
set -euo pipefail
export LC_ALL=C.UTF-8

bin=$1 out=$2 version=$3 date=$4
awk_file=$(dirname "${BASH_SOURCE[0]}")/help.awk
mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

page() { # NAME SECTION TITLE TEXT...
    local name=$1 section=$2 title=$3
    shift 3
    awk -v page="${name^^}" -v section="$section" -v title="$title" -v version="$version" -v date="$date" \
        -f "$awk_file" "$@" >"$tmp/$name.$section"
    see=
    for other in "distill(1)" "distill-job(5)" "distilld(8)" "distill-worker(8)"; do
        [ "$other" = "$name($section)" ] || see+="${see:+, }.BR ${other%(*} ($(tr -dc 0-9 <<<"${other#*(}"))"
    done
    {
        echo '.SH "SEE ALSO"'
        tr ',' '\n' <<<"$see" | sed 's/^ *//; s/-/\\-/g; $!s/$/ ,/'
    } >>"$tmp/$name.$section"
    mv "$tmp/$name.$section" "$out/$name.$section"
}

"$bin/distill" help all >"$tmp/distill"
{
    printf 'distill-job - the job file of distill and distilld\n\n'
    echo 'A job file is YAML: mappings of the keys below, which are written here with dots between. `distill init`'
    echo 'writes one to begin with, `distill explain KEY` tells more of a key, `distill submit --dry-run` checks a file.'
    printf 'Unknown keys, wrong types and impossible values are refused with line and column.\n\n'
    "$bin/distill" help job
} >"$tmp/job"
"$bin/distilld" --help >"$tmp/distilld"
"$bin/distilld" init --help >"$tmp/init"
"$bin/distill-worker" --help >"$tmp/worker"
"$bin/distill-worker" join --help >"$tmp/join"
page distill 1 "distill Manual" "$tmp/distill"
page distill-job 5 "distill Manual" "$tmp/job"
page distilld 8 "distill Manual" "$tmp/distilld" "$tmp/init"
page distill-worker 8 "distill Manual" "$tmp/worker" "$tmp/join"
