#!/usr/bin/env bash
# Hooks: a command and a web address are told of what happens to jobs, once if nothing fails, again by the same id where
# something does; what hangs, floods or fails holds nothing up.
. tests/integration/cluster.sh

small_data
small_job >"$DIR/job.yaml"
mkdir "$DIR/told"
cat >"$DIR/hook" <<'SH'
#!/bin/bash
# Notes what it was given; $2 = ok, fail: at the first try of each event, slow, hang.
event=$(cat)
echo "$DISTILL_EVENT $DISTILL_EVENT_ID $DISTILL_JOB $DISTILL_JOB_NAME $event" >>"$1/told"
env | cut -d= -f1 | sort | tr '\n' ' ' >"$1/env"
ls /proc/self/fd | tr '\n' ' ' >"$1/fds"
ps -o pid=,pgid=,sid= -p $$ >"$1/group" 2>/dev/null || true
echo "heard of $DISTILL_EVENT"
case $2 in
slow) sleep 2 ;;
hang)
    trap '' TERM
    sleep 600 &
    echo $! >>"$1/children"
    wait
    ;;
fail)
    [ -e "$1/try-$DISTILL_EVENT_ID" ] || { touch "$1/try-$DISTILL_EVENT_ID"; exit 3; }
    ;;
esac
SH
chmod 755 "$DIR/hook"
cat >"$DIR/web.py" <<'PY'
"""Takes what is posted; the first post of each event is answered 503."""
import http.server, json, os, sys
folder, seen = sys.argv[1], set()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        event = json.loads(body)
        assert self.headers["X-Distill-Event-Id"] == event["id"] and self.headers["Content-Type"] == "application/json"
        again = event["id"] in seen
        seen.add(event["id"])
        with open(os.path.join(folder, "web"), "a") as f:
            f.write(f'{event["event"]} {event["id"]} {"again" if again else "first"}\n')
        self.send_response(204 if again else 503)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
with open(os.path.join(folder, "web-port"), "w") as f:
    f.write(str(server.server_port))
server.serve_forever()
PY
kinds() { awk '{ print $1 }' "$1" | sort | uniq -c | awk '{ print $2 "=" $1 }' | tr '\n' ' '; }
# configure LINES...: the coordinator's file.
configure() {
    printf '%s\n' "$@" >"$DIR/distilld.yaml"
    COORDINATOR_FLAGS=(--config "$DIR/distilld.yaml" "${HTTP_FLAGS[@]}")
}
await_told() { # N: and nobody waits
    for _ in $(seq 200); do
        [ "$(metric distill_hooks_waiting)" = 0 ] && [ "$(wc -l <"$DIR/told/told")" -ge "$1" ] && return
        sleep 0.1
    done
    fail "$1 events were not told: $(cat "$DIR/told/told")"
}

note "what cannot be is refused at the start"
refused() { # TEXT LINES...
    printf '%s\n' "${@:2}" >"$DIR/bad.yaml"
    local rc=0
    "$BUILD/distilld" --config "$DIR/bad.yaml" --state-dir "$DIR/bad" --listen 127.0.0.1:0 >"$DIR/out" 2>&1 || rc=$?
    [ $rc -ne 0 ] && says "$1" <"$DIR/out" || { cat "$DIR/out"; fail "no \"$1\""; }
}
refused 'whole path of a program' 'hook_command: [notify, now]'
refused 'begins with http' 'hook_url: file:///etc/passwd'
refused 'start, end, fail, stall and epoch, not begin' 'hook_events: [begin]'
refused 'one value is expected' 'min_free: [1, 2]'
refused 'list of words' 'hook_command: [[a]]'

note "a command with arguments, in order, once, with little around it; a web address that fails at first"
/usr/bin/python3 "$DIR/web.py" "$DIR/told" >"$DIR/web.log" 2>&1 &
PIDS[web]=$!
await_port web "$DIR/told/web-port"
configure "hook_command: [\"$DIR/hook\", \"$DIR/told\", ok]" "hook_url: http://127.0.0.1:$(cat "$DIR/told/web-port")/x"
coordinator
worker one
await_workers 1
SECRET=hidden job=$(distill submit "$DIR/job.yaml" --wait -q)
await_told 6
[ "$(kinds "$DIR/told/told")" = 'end=1 epoch=4 start=1 ' ] || fail "the command was told: $(cat "$DIR/told/told")"
[ "$(awk '{ print $1 }' "$DIR/told/told" | sed -n '1p;$p' | tr '\n' ' ')" = 'start end ' ] || fail "not in order"
awk '{ $1 = $2 = $3 = $4 = ""; print }' "$DIR/told/told" | /usr/bin/python3 -c '
import json, sys
events = [json.loads(l) for l in sys.stdin]
assert all(e["job"] == sys.argv[1] and e["name"] == "small" for e in events), events
assert [e["data"] is not None for e in events if e["event"] == "epoch"] == [True] * 4, events
assert events[-1]["state"] == "succeeded" and events[-1]["text"] == "job succeeded", events[-1]
' "$job" || fail "what the command was given"
[ "$(cat "$DIR/told/env")" = 'DISTILL_EVENT DISTILL_EVENT_ID DISTILL_JOB DISTILL_JOB_NAME LANG PATH PWD SHLVL _ ' ] ||
    fail "its environment: $(cat "$DIR/told/env")"
# None of the daemon's; what this shell has inherited, every child of it has.
[ "$(cat "$DIR/told/fds")" = "$(ls /proc/self/fd | tr '\n' ' ')" ] || fail "descriptors that it got: $(cat "$DIR/told/fds")"
log_says 'hook_command: heard of epoch' || fail "its output is not in the log"
url_told() { [ "$(metric 'distill_hooks_total{to="url",result="told"}')" = "$1" ]; }
await 40 url_told 6
[ "$(kinds "$DIR/told/web")" = 'end=2 epoch=8 start=2 ' ] || fail "the address was told: $(cat "$DIR/told/web")"
[ "$(metric 'distill_hooks_total{to="url",result="failed"}')" = 6 ] || fail "failures were not counted"
! grep -q '/x' "$DIR/distilld.log" || fail "the address is in the log"
if command -v promtool >/dev/null; then
    promtool check metrics < <(metrics) || fail "metrics"
fi
stop web KILL

note "one that hangs is ended with all it began, and holds no job up"
stop distilld
rm -f "$DIR/told/told"
configure "hook_command: [\"$DIR/hook\", \"$DIR/told\", hang]" 'hook_events: [start]' 'hook_timeout: 6s'
coordinator
await_workers 1
distill submit "$DIR/job.yaml" --wait -q >/dev/null
await 30 log_says 'its time was over'
[ -s "$DIR/told/children" ] || fail "it began nothing"
stop distilld
while read -r child; do # killed with its group, and gone once init has waited for it
    for _ in $(seq 50); do kill -0 "$child" 2>/dev/null || break; sleep 0.1; done
    ! kill -0 "$child" 2>/dev/null || fail "a child of the command lives"
done <"$DIR/told/children"

# forget_hooks: a coordinator without hooks has nothing to tell any more.
forget_hooks() {
    configure 'heartbeat_ms: 200'
    coordinator
    [ "$(metric distill_hooks_waiting)" = 0 ] || fail "what nobody is to be told is still there"
    stop distilld
}

note "the coordinator is killed before, while and after it tells: told again, by the same id"
for point in hook.tell hook.told; do
    forget_hooks
    rm -f "$DIR/told/told" "$DIR"/told/try-*
    configure "hook_command: [\"$DIR/hook\", \"$DIR/told\", fail]" 'hook_events: [start, fail, end]'
    AROUND_COORDINATOR=(env DISTILL_FAILPOINTS="$point=kill@2")
    coordinator
    await_workers 1
    job=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
    rc=0
    wait "${PIDS[distilld]}" || rc=$?
    [ $rc -eq 137 ] || fail "the coordinator was not killed at $point"
    AROUND_COORDINATOR=()
    coordinator
    distill wait "$job" --timeout 5m
    await_told 2
    for kind in start end; do
        grep -q "^$kind $job-[0-9]* $job small " "$DIR/told/told" || fail "$kind was not told: $(cat "$DIR/told/told")"
        [ "$(awk -v k=$kind '$1 == k { print $2 }' "$DIR/told/told" | sort -u | wc -l)" = 1 ] || fail "$kind has several ids"
    done
    stop distilld
done

note "a job that stalls, and one that fails"
forget_hooks
rm -f "$DIR/told/told"
configure "hook_command: [\"$DIR/hook\", \"$DIR/told\", ok]" 'hook_events: [fail, stall]'
coordinator
await_workers 1
stalls=$(distill submit "$DIR/job.yaml" --set data.labelled.path=nowhere -q)
await_told 1
distill cancel "$stalls" >/dev/null
torn=$(head -n 1 "$DIR/data/flowers/train.txt" | cut -f 1)
cp "$DIR/data/flowers/$torn" "$DIR/whole"
head -c 100 "$DIR/whole" >"$DIR/data/flowers/$torn"
fails=$(distill submit "$DIR/job.yaml" -q)
expect 7 BAD_IMAGES distill wait "$fails" --timeout 5m
await_told 2
mv "$DIR/whole" "$DIR/data/flowers/$torn"
awk '{ $1 = $2 = $3 = $4 = ""; print }' "$DIR/told/told" | /usr/bin/python3 -c '
import json, sys
told = [(e["event"], e["job"], e["state"], e["text"]) for e in map(json.loads, sys.stdin)]
stall, fail = told
assert stall[:3] == ("stall", sys.argv[1], "running") and "NO_DATA" in stall[3], stall
assert fail[:3] == ("fail", sys.argv[2], "failed") and "BAD_IMAGES" in fail[3], fail
' "$stalls" "$fails" || fail "it was told: $(cat "$DIR/told/told")"
stop distilld

note "one that cannot be run"
forget_hooks
configure 'hook_command: [/no/such/program]' 'hook_events: [end]'
coordinator
await_workers 1
bad=$(distill submit "$DIR/job.yaml" --set data.labelled.path=nowhere -q)
distill cancel "$bad" >/dev/null
await 30 log_says 'cannot run /no/such/program'
expect 0 '' distill jobs
stop one
stop distilld
