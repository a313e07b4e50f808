#!/usr/bin/env bash
# The alert rules fire on what they are for, and on nothing else: each of them, by Prometheus' own tool.
. tests/integration/cluster.sh
command -v promtool >/dev/null || { echo "skipped: no promtool"; exit 77; }

sed "s#RULES#$PWD/deploy/monitoring/alerts.yml#" tests/integration/alerts.yml >"$DIR/alerts.yml"
promtool test rules "$DIR/alerts.yml" >"$DIR/out" 2>&1 || fail "$(cat "$DIR/out")"
for name in $(sed -n 's/.*- alert: //p' deploy/monitoring/alerts.yml); do
    [ "$(grep -c "alertname: $name" tests/integration/alerts.yml)" -ge 2 ] || fail "no test that $name fires, and does not"
    grep -A2 "alertname: $name\$" tests/integration/alerts.yml | says exp_labels || fail "$name never fires"
done
