#!/usr/bin/env bash
# The service's settings, with every key that the program has: settings.sh DISTILLD HEAD OUT.
# HEAD stands in place of the first lines of what `distilld init` writes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$1" init --state-dir "$tmp/state" --listen 0.0.0.0:7070 --config "$tmp/settings" >/dev/null
{
    cat "$2"
    sed -e '1,/^$/{/^$/!d}' -e "s|$(realpath "$tmp/state")|/var/lib/distilld|" "$tmp/settings"
} >"$3.new"
grep -q '^state_dir: "/var/lib/distilld"$' "$3.new"
mv "$3.new" "$3"
