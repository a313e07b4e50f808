#!/usr/bin/env bash
# HTTP: who is let in, probes, the JSON API against `distill -o json`, live streams, hostile input.
. tests/integration/cluster.sh
command -v curl >/dev/null || exit 77

# http PATH [CURL FLAGS]
http() { curl -sS --max-time 20 "${@:2}" "http://127.0.0.1:$HTTP$1"; }
code() { http "$@" -o /dev/null -w '%{http_code}'; }
COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
serve() {
    coordinator
    HTTP=$(cat "$DIR/http-port")
}

note "addresses that may not be"
for address in 0.0.0.0:0 '[::]:0' localhost 127.0.0.1 127.0.0.1:99999 :7080; do
    rc=0
    timeout 20 "$BUILD/distilld" --state-dir "$DIR/none" --listen 127.0.0.1:0 --http "$address" >"$DIR/out" 2>&1 || rc=$?
    [ $rc -eq 1 ] || fail "--http $address: exit code $rc"
    grep -q -- '--http' "$DIR/out" || fail "--http $address: it does not say why"
done

small_data
small_job >"$DIR/job.yaml"
serve
rc=0
timeout 20 "$BUILD/distilld" --state-dir "$DIR/none" --listen 127.0.0.1:0 --http "127.0.0.1:$HTTP" >"$DIR/out" 2>&1 || rc=$?
[ $rc -eq 75 ] || fail "a port in use: exit code $rc"
worker one
worker two
await_workers 2

note "probes, files and their headers"
[ "$(http /healthz)" = ok ] && [ "$(http /readyz)" = ready ] || fail "not healthy"
http / -D "$DIR/head" -o "$DIR/index.html"
grep -qi "^content-security-policy: default-src 'none'; script-src 'self';" "$DIR/head" || fail "no policy"
grep -qi '^x-content-type-options: nosniff' "$DIR/head" || fail "no nosniff"
for file in $(grep -oE '(src|href)="[^"#]+"' "$DIR/index.html" | cut -d'"' -f2); do
    http "/$file" -D "$DIR/head" -o "$DIR/got"
    grep -q '^HTTP/1.1 200' "$DIR/head" || fail "$file is not there"
    tag=$(tr -d '\r' <"$DIR/head" | sed -n 's/^ETag: //p')
    [ "$(code "/$file" -H "If-None-Match: $tag")" = 304 ] || fail "$file is sent again"
done
cmp -s <(http /app.js) server/web/app.js || fail "app.js is not as it was written"
[ "$(http /healthz -I | head -n 1 | tr -d '\r')" = "HTTP/1.1 200 OK" ] || fail "HEAD"

note "live: a stream of a job from before its first step to its end"
job=$(distill submit "$DIR/job.yaml" -q)
http "/api/v1/jobs/$job/stream" -N --max-time 300 >"$DIR/stream" &
reader=$!
timeout 3 curl -sN "http://127.0.0.1:$HTTP/api/v1/stream" >"$DIR/whole" || true
distill wait "$job" --timeout 10m
wait $reader || fail "the stream did not end with the job"
python3 - "$DIR/stream" "$DIR/whole" <(distill events "$job" -o json) "$job" <<'PY' || fail "the streams"
import json, sys
def events(path):
    for block in open(path).read().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
stream = list(events(sys.argv[1]))
told = [data for name, _, data in stream if name == "event"]
assert told == [json.loads(line) for line in open(sys.argv[3])], "another story than `distill events`"
assert [int(i) for name, i, _ in stream if name == "event"] == list(range(1, len(told) + 1))
progress = [data for name, _, data in stream if name == "progress"]
assert progress and all(p["progress"]["stage"] for p in progress)
assert stream[-1][0] == "end"
whole = {name: data for name, _, data in events(sys.argv[2])}
assert {w["name"] for w in whole["workers"]["workers"]} == {"one", "two"}
assert whole["jobs"]["jobs"][0]["job"] == sys.argv[4]
PY
# A reader that comes back goes on where it was.
http "/api/v1/jobs/$job/stream" -H 'Last-Event-ID: 3' >"$DIR/again"
[ "$(sed -n '/^id:/{p;q}' "$DIR/again")" = 'id: 4' ] || fail "Last-Event-ID"

note "the same JSON as the client prints"
same() { # PATH COMMAND...
    python3 - <(http "$1") <("${@:2}") <<'PY' || fail "$1 differs from \`${*:2}\`"
import json, sys
def steady(o):
    if isinstance(o, dict):
        return {k: steady(v) for k, v in o.items() if k not in ("seen", "resident_bytes", "descriptors", "units_per_second")}
    return [steady(v) for v in o] if isinstance(o, list) else o
a, b = (json.load(open(p)) for p in sys.argv[1:])
assert steady(a) == steady(b), (a, b)
PY
}
same "/api/v1/jobs/$job" distill show "$job" -o json
same "/api/v1/jobs/${job:0:6}" distill show "$job" -o json
same /api/v1/jobs distill jobs -a -o json
same /api/v1/workers distill workers -o json
http "/api/v1/workers" | pick 'all(w["resident_bytes"] > 1e6 and w["descriptors"] > 3 for w in d["workers"])' | says True ||
    fail "memory of workers"
http "/api/v1/jobs/$job/events?from=2&limit=3" | pick '[e["seq"] for e in d["events"]] == [2, 3, 4]' | says True || fail "events"
http "/api/v1/jobs/$job/steps" | pick '[(s["name"], s["steps"], len(s["curve"]["loss"])) for s in d["stages"]]' >"$DIR/steps"
says "('distill', 12, 12)" <"$DIR/steps" || fail "measured steps: $(cat "$DIR/steps")"
http "/api/v1/jobs/$job/evaluation" >"$DIR/evaluation.json"
distill fetch "$job" -O "$DIR/files"
cmp "$DIR/evaluation.json" "$DIR/files/evaluation.json" || fail "evaluation.json"
http /api/v1/info | pick 'd["bank"]["records"] > 0 and d["free_bytes"] > 0 and d["epoch"] == 1' | says True || fail "info"
[ "$(code /api/v1/jobs/0000ffff)" = 404 ] || fail "a job that is not there"

for path in "jobs/$job" "jobs/$job/events" "jobs/$job/steps"; do
    http "/api/v1/$path" >"$DIR/numbers.json"
    grep -q '[0-9]\.[0-9]' "$DIR/numbers.json" || fail "$path has no numbers"
    python3 - "$DIR/numbers.json" <<'PY' || fail "$path: numbers are longer than it takes to read them back"
import re, sys
for digits in re.findall(r"[:\[,](-?[0-9]+\.[0-9]+)(?=[,}\]])", open(sys.argv[1]).read()):
    assert len(digits) <= len(repr(float(digits))), digits
PY
done

note "hostile input"
python3 tests/integration/http_abuse.py "$HTTP"

note "more streams than there may be"
readers=()
for _ in $(seq 16); do
    timeout 30 curl -sN "http://127.0.0.1:$HTTP/api/v1/stream" >/dev/null &
    readers+=($!)
done
await_streams() { # N
    for _ in $(seq 300); do
        [ "$(http /metrics | sed -n 's/^distill_http_streams //p')" = "$1" ] && return
        sleep 0.1
    done
    fail "there are never $1 streams"
}
await_streams 16
[ "$(code /api/v1/stream)" = 503 ] || fail "a seventeenth stream"
kill "${readers[@]}"
await_streams 0 # those whose readers are gone are found out

note "an end with streams open, and a start"
timeout 60 curl -sN "http://127.0.0.1:$HTTP/api/v1/stream" >/dev/null &
timeout 60 curl -sN "http://127.0.0.1:$HTTP/api/v1/jobs/$job/stream" >/dev/null &
sleep 1
stop distilld
serve
same "/api/v1/jobs/$job" distill show "$job" -o json
