#!/usr/bin/env bash
# kill -9 of the coordinator in the middle of a sweep's submission leaves the whole sweep or nothing; killed
# at any moment of its run, the sweep comes to the same digests.
. tests/integration/cluster.sh
needs_grpc

pause() { sleep "$(awk -v r=$RANDOM -v most="$1" 'BEGIN { print r / 32768 * most }')"; }
request() { # request FILE KEY
    /usr/bin/python3 -c '
import json, sys
print(json.dumps({"key": sys.argv[2], "text": open(sys.argv[1]).read()}))' "$1" "$2"
}

small_data
{ small_job; echo 'matrix: {distill.loss.temperature: [1, 2, 3, 4, 5], distill.loss.kd: [0.5, 0.7, 0.9]}'; echo 'seeds: 8'; } >"$DIR/many.yaml"
coordinator

note "kill -9 while 120 children are stored"
request "$DIR/many.yaml" first >"$DIR/request"
start=$(date +%s%N)
call Submit "$(cat "$DIR/request")" >"$DIR/reply"
took=$((($(date +%s%N) - start) / 1000000))
[ "$(pick 'len(d["children"])' <"$DIR/reply")" -eq 120 ] || fail "not 120 children"
echo "one submission takes $took ms"
none=0 all=0
for i in $(seq 8); do
    request "$DIR/many.yaml" "key$i" >"$DIR/request"
    call Submit "$(cat "$DIR/request")" >"$DIR/reply" 2>/dev/null &
    client=$!
    pause "$(awk -v ms="$took" 'BEGIN { print ms * 1.2 / 1000 }')"
    stop distilld KILL
    acknowledged=yes
    wait $client || acknowledged=no
    coordinator
    n=$(call List '{"limit": 1000}' | pick 'len([j for j in d["jobs"] if not j["sweep"]]), len([j for j in d["jobs"] if j["sweep"]])')
    case $n in
    "($((i)), $((i * 120)))") none=$((none + 1)); [ $acknowledged = no ] || fail "an acknowledged sweep is lost" ;;
    "($((i + 1)), $(((i + 1) * 120)))") all=$((all + 1)) ;;
    *) fail "round $i: $n sweeps and jobs" ;;
    esac
    call Submit "$(cat "$DIR/request")" >"$DIR/second" # the same key: the same sweep, or a first one
    [ "$(pick 'len(d["children"])' <"$DIR/second")" -eq 120 ] || fail "not 120 children"
    if [ $acknowledged = yes ]; then
        [ "$(pick '[d["job"]] + d["children"]' <"$DIR/second")" = "$(pick '[d["job"]] + d["children"]' <"$DIR/reply")" ] ||
            fail "round $i: a repeat made another sweep"
    fi
done
echo "whole: $all, nothing: $none"

note "the queue of 1080 jobs is cancelled sweep by sweep, and removed"
for sweep in $(call List '{"limit": 1000}' | pick '" ".join(j["job"] for j in d["jobs"] if not j["sweep"])'); do
    call Cancel "{\"job\": \"$sweep\"}" >/dev/null
    call Remove "{\"job\": \"$sweep\"}" >/dev/null
done
[ "$(call List '{}' | pick 'len(d["jobs"])')" -eq 0 ] || fail "jobs are left"
[ -z "$(ls "$DIR/state/jobs")" ] || fail "folders are left"

note "kill -9 while a sweep runs"
{ small_job; echo 'matrix: {distill.loss.temperature: [1, 4]}'; echo 'seeds: 2'; } >"$DIR/sweep.yaml"
worker a
worker b
await_workers 2
sweep_digests() { # of all children of a sweep
    local c
    for c in $(call Get "{\"job\": \"$1\"}" | pick '" ".join(j["job"] for j in d["jobs"])'); do digests "$c"; done
}
calm=$(call Submit "$(request "$DIR/sweep.yaml" calm)" | pick 'd["job"]')
distill wait "$calm" --timeout 10m >/dev/null
want=$(sweep_digests "$calm")
[ "$(wc -w <<<"$want")" -eq 12 ] || fail "not twelve digests: $want"
rough=$(call Submit "$(request "$DIR/sweep.yaml" rough)" | pick 'd["job"]')
kills=0
while [ "$(call Get "{\"job\": \"$rough\"}" | pick 'd["summary"]["state"] in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING")')" = True ]; do
    [ $kills -lt 12 ] || { distill wait "$rough" --timeout 10m >/dev/null; break; }
    pause 1.5
    stop distilld KILL
    coordinator
    kills=$((kills + 1))
done
echo "$kills kills"
[ "$(sweep_digests "$rough")" = "$want" ] || fail "digests differ after $kills kills: $(sweep_digests "$rough"), $want"
# The last child may have ended just before a kill: the sweep's own end is made up for.
call Get "{\"job\": \"$rough\"}" >"$DIR/detail"
[ "$(pick 'd["summary"]["state"]' <"$DIR/detail")" = JOB_STATE_SUCCEEDED ] || fail "the sweep did not succeed"
[ "$(pick 'len(json.loads(d["result"])["children"])' <"$DIR/detail")" -eq 4 ] || fail "the sweep has no whole result"

note "what a crash leaves between a child and its siblings, and between the last child and the sweep"
third=$(pick 'd["jobs"][2]["job"]' <"$DIR/detail")
stop distilld KILL
python3 - "$DIR/state/distilld.db" "$rough" "$third" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
sweep, child = (int(x, 16) for x in sys.argv[2:])
# The third child as it was before it had anything, with the first one's teacher and twin done.
db.execute("UPDATE stages SET done = 0, digest = '', info = NULL, manifest = 1, evaluated = 0, shared = 0,"
           " best_version = 0, best_digest = '' WHERE job = ?", (child,))
db.execute("DELETE FROM evaluations WHERE job = ?", (child,))
db.execute("DELETE FROM files WHERE job = ?", (child,))
db.execute("UPDATE jobs SET state = 0, started_ms = 0, finished_ms = 0, result = NULL WHERE id = ?", (child,))
db.execute("UPDATE jobs SET state = 1, finished_ms = 0, result = NULL WHERE id = ?", (sweep,))
db.commit()
PY
coordinator
distill wait "$rough" --timeout 10m >/dev/null
[ "$(stage_field "$third" teacher shared)" != None ] || fail "the teacher was made again"
[ "$(stage_field "$third" scratch shared)" != None ] || fail "the twin was made again"
[ "$(sweep_digests "$rough")" = "$want" ] || fail "digests differ: $(sweep_digests "$rough"), $want"
stop distilld KILL
python3 - "$DIR/state/distilld.db" "$rough" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("UPDATE jobs SET state = 1, finished_ms = 0, result = NULL WHERE id = ?", (int(sys.argv[2], 16),))
db.commit()
PY
coordinator
call Get "{\"job\": \"$rough\"}" >"$DIR/detail"
[ "$(pick 'd["summary"]["state"], len(json.loads(d["result"])["children"])' <"$DIR/detail")" = "('JOB_STATE_SUCCEEDED', 4)" ] ||
    fail "the sweep's end was not made up for"
