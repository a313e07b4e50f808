#!/usr/bin/env bash
# A job's log lines: those of all workers come to the coordinator with stage and step, in order, and are followed and
# filtered; both daemons write JSON when they are asked to, and the job's bits do not change by it.
. tests/integration/cluster.sh

small_data
small_job >"$DIR/job.yaml"
printf 'log_format: json\n' >"$DIR/distilld.yaml"
COORDINATOR_FLAGS=(--config "$DIR/distilld.yaml")
AROUND_WORKER=(env KD_LOG_FORMAT=json)
coordinator
worker one
worker two
await_workers 2

note "followed while it runs"
job=$(distill submit "$DIR/job.yaml" --set cluster.min_workers=2 --set distill.epochs=30 -q)
distill logs "$job" -f -o json >"$DIR/followed" 2>"$DIR/followed.err" &
follower=$!
await_steps "$job" distill 3
# A line that the coordinator has not stored yet goes with it.
stored_it() { distill logs "$job" --worker "$1" | says 'stage distill is prepared'; }
for who in one two; do await 60 stored_it $who; done
note "the coordinator goes away: each worker says so, and its line comes once there is one again"
stop distilld KILL
sleep 1
coordinator
missed_it() { distill logs "$job" --worker "$1" | says 'no coordinator: '; }
for who in one two; do await 60 missed_it $who; done
distill cancel "$job" >/dev/null
wait $follower || { cat "$DIR/followed.err"; fail "the follower ended with $?"; }
distill logs "$job" -o json >"$DIR/all"
/usr/bin/python3 - "$DIR/all" "$DIR/followed" <<'PY' || fail "lines"
import json, sys
events, followed = ([json.loads(l) for l in open(p)] for p in sys.argv[1:])
assert [e["seq"] for e in followed] == [e["seq"] for e in events], "following shows other lines"
lines = [e for e in events if e["data"] and "level" in e["data"]]
assert {e["worker"] for e in lines} == {"one", "two"}, lines
assert all(set(e["data"]) == {"level", "stage", "step", "seq"} for e in lines), lines
prepared = [e for e in lines if "is prepared" in e["text"]]
assert {(e["worker"], e["data"]["stage"]) for e in prepared} >= {("one", "teacher"), ("two", "distill")}, prepared
lost = [e for e in lines if e["text"].startswith("no coordinator")]
assert all(e["kind"] == "warning" and e["data"]["stage"] == "distill" and e["data"]["step"] >= 3 for e in lost) and lost
for w in ("one", "two"):
    numbers = [e["data"]["seq"] for e in lines if e["worker"] == w]
    assert numbers == sorted(set(numbers)), numbers
PY
distill logs "$job" --level warn -o json | /usr/bin/python3 -c '
import json, sys
kinds = {json.loads(l)["kind"] for l in sys.stdin}
assert kinds == {"warning"}, kinds' || fail "--level"
[ -z "$(distill logs "$job" --since 1ms 2>/dev/null)" ] || fail "--since"
[ -n "$(distill logs "$job" --since 1h)" ] || fail "--since 1h"
expect 2 'no level' distill logs "$job" --level loud
expect 2 'logs' distill logs "$job" --since yesterday

note "each line of the daemons is one JSON object"
for w in one two; do stop $w; done
stop distilld
/usr/bin/python3 - "$DIR/distilld.log" "$DIR/worker-one.log" "$job" <<'PY' || fail "log lines"
import json, sys
coordinator, worker = ([json.loads(l) for l in open(p)] for p in sys.argv[1:3])
job = sys.argv[3]
assert all(l["time"].endswith("Z") and l["level"] in ("info", "warn", "err") and l["text"] for l in coordinator + worker)
assert any(l.get("job") == job and l.get("event") == "epoch" for l in coordinator)
assert any(l.get("job") == job and l.get("worker") == "two" for l in coordinator)
prepared = [l for l in worker if "is prepared" in l["text"]]
assert prepared and all(l["job"] == job and l["worker"] == "one" and float(l["seconds"]) >= 0 for l in prepared), prepared
joined = [l for l in worker if l["text"] == "joined"]
assert joined and joined[0]["server"].startswith("127.0.0.1:") and joined[0]["name"] == "one", joined
PY
