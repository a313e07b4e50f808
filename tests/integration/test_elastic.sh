#!/usr/bin/env bash
# Pause, resume, scale, drain and priority change who computes, never what comes out.
. tests/integration/cluster.sh

# state_of WORKER FIELD
state_of() { distill workers -o json | pick "next((w[\"$2\"] for w in d[\"workers\"] if w[\"name\"] == \"$1\"), \"gone\")"; }
# summary JOB FIELD
summary() { distill show "$1" -o json | pick "d[\"$2\"]"; }
# await COMMAND... WORD: until what it prints is the last argument.
await() {
    local want=${*: -1} got=
    for _ in $(seq 600); do
        got=$("${@:1:$#-1}")
        [ "$got" != "$want" ] || return 0
        sleep 0.1
    done
    fail "${*:1:$#-1} is $got, $want was expected"
}
running_of() { distill show "$1" -o json | pick 'len([j for j in d["jobs"] if j["state"] == "running"])'; }
workers_of() { distill show "$1" -o json | pick '(d["progress"] or {"workers": 0})["workers"]'; }
refused() { # refused CODE TEXT COMMAND...
    local code=$1 text=$2 rc=0
    shift 2
    distill "$@" >"$DIR/refused.out" 2>&1 || rc=$?
    [ "$rc" -eq "$code" ] || fail "distill $*: exit code $rc, $code was expected: $(cat "$DIR/refused.out")"
    says "$text" <"$DIR/refused.out" || fail "distill $*: $(cat "$DIR/refused.out")"
}
submit() { distill submit "$DIR/job.yaml" --set distill.epochs=6 -q "$@"; }
done_as_wanted() { # done_as_wanted JOB WHAT
    distill wait "$1" --timeout 10m >/dev/null
    [ "$(digests "$1")" = "$want" ] || fail "$2: $(digests "$1") instead of $want"
    [ "$(stage_field "$1" distill steps_redone)" = 0 ] || fail "$2: steps were computed again"
}

small_cluster a
job=$(submit)
distill wait "$job" --timeout 10m >/dev/null
want=$(digests "$job")

note "two jobs at once, each on a worker of its own"
worker b
worker c
await_workers 3
one=$(submit --set cluster.max_workers=1)
two=$(submit --set cluster.max_workers=1)
await_steps "$one" distill 2
await_steps "$two" distill 2
[ "$(distill workers -o json | pick 'len({w["job"] for w in d["workers"]} - {""})')" -eq 2 ] || fail "not two jobs"
[ "$(distill workers -o json | pick 'len([w for w in d["workers"] if w["job"]])')" -eq 2 ] || fail "not two workers"
done_as_wanted "$one" "side by side"
done_as_wanted "$two" "side by side"

note "pause, a restart of the coordinator, resume"
job=$(submit)
await_steps "$job" distill 3
distill pause "$job" | says "$job pauses as soon as" || fail "pause tells something else"
await summary "$job" state queued
[ "$(summary "$job" paused)" = True ] || fail "it is not paused"
for w in a b c; do [ "$(state_of $w job)" = "" ] || fail "worker $w still works for it"; done
distill jobs --state paused -q | says "$job" || fail "it is not among the paused ones"
distill show "$job" | says 'distill resume lets it go on' || fail "no reason is given"
stop distilld KILL
coordinator
await_workers 3
sleep 1
[ "$(summary "$job" state) $(summary "$job" paused)" = "queued True" ] || fail "the restart forgot the pause"
distill pause "$job" >/dev/null # once more is harmless
distill resume "$job" >/dev/null
done_as_wanted "$job" "paused"
has_event "$job" 'goes on' || fail "the events do not say that it goes on"
[ "$(stage_field "$job" distill lost_ms_all)" = 0.0 ] || fail "a pause counts as a fault"

note "one worker, three, one; min and max survive a restart"
job=$(submit --set cluster.max_workers=1)
await_steps "$job" distill 2
[ "$(workers_of "$job")" -eq 1 ] || fail "$(workers_of "$job") workers instead of one"
distill scale "$job" --max 3 | says 'takes 1 to 3 workers' || fail "scale tells something else"
await workers_of "$job" 3
await_steps "$job" distill 8
distill scale "$job" --max 1 >/dev/null
await workers_of "$job" 1
refused 2 'would want at least 2 workers and at most 1' scale "$job" --min 2
refused 2 'scale to what' scale "$job"
refused 2 '0' scale "$job" --max 0
refused 2 'is more than' scale "$job" --min 3 --max 2
stop distilld KILL
coordinator
[ "$(summary "$job" max_workers)" -eq 1 ] || fail "the restart forgot the scale"
done_as_wanted "$job" "scaled"

note "drain of a worker in the middle of a job"
await_workers 3
job=$(submit)
await workers_of "$job" 3
await_steps "$job" distill 2
distill drain b --wait --timeout 1m | says 'worker b is drained' || fail "drain tells something else"
[ "$(state_of b job)" = "" ] || fail "the drained worker has a job"
await workers_of "$job" 2
stop b
done_as_wanted "$job" "drained"
has_event "$job" 'b: drained by' || fail "no event tells of the drain"
distill drain a | says 'worker a is drained' || fail "an idle worker is not drained at once"
[ "$(state_of a state)" = drained ] || fail "a is $(state_of a state)"
distill drain a --undo >/dev/null
[ "$(state_of a state)" = idle ] || fail "a is $(state_of a state) after --undo"
refused 3 'no worker "nobody" is connected' drain nobody

note "a drained worker that was silent comes back drained"
distill drain c >/dev/null
kill -STOP "${PIDS[c]}"
await state_of c state gone
kill -CONT "${PIDS[c]}"
await state_of c state drained
distill drain c --undo >/dev/null

note "a job of higher priority takes the workers, the other one goes on later"
low=$(submit --set cluster.min_workers=2)
await_steps "$low" distill 3
high=$(submit --set cluster.min_workers=2 --set cluster.priority=5)
await summary "$high" state running
[ "$(summary "$low" state)" = queued ] || fail "the job of lower priority is $(summary "$low" state)"
distill jobs | says PRIORITY || fail "no column tells the priority"
done_as_wanted "$high" "of higher priority"
done_as_wanted "$low" "put back"
has_event "$low" "makes room for job $high" || fail "no event tells why it stopped"

note "refusals"
refused 5 'over already' pause "$job"
refused 5 'over already' resume "$job"
refused 5 'over already' scale "$job" --max 2
refused 3 'no job' pause ffffffffffff

note "a sweep is paused and resumed with all its jobs"
{ small_job; echo 'matrix: {distill.loss.temperature: [1, 2, 5]}'; } >"$DIR/sweep.yaml"
sweep=$(distill submit "$DIR/sweep.yaml" -q | head -1)
await summary "$sweep" state running
distill pause "$sweep" >/dev/null
[ "$(summary "$sweep" paused)" = True ] || fail "the sweep is not paused"
[ "$(distill show "$sweep" -o json | pick '[j["paused"] for j in d["jobs"]]')" = "[True, True, True]" ] || fail "not all its jobs are"
await running_of "$sweep" 0
distill resume "$sweep" >/dev/null
distill scale "$sweep" --max 1 >/dev/null
[ "$(distill show "$sweep" -o json | pick '[j["max_workers"] for j in d["jobs"]]')" = "[1, 1, 1]" ] || fail "not all its jobs are scaled"
distill wait "$sweep" --timeout 10m >/dev/null

note "a lost worker: what it cost is told and stored"
worker b
await_workers 3
job=$(submit)
await_steps "$job" distill 3
stop c KILL
done_as_wanted "$job" "a worker lost"
has_event "$job" 'recovered in' || fail "no event tells of the recovery"
[ "$(distill events "$job" -o json | grep -c '"kind":"recovery"')" -ge 1 ] || fail "no event of the recovery"
[ "$(distill show "$job" -o json | pick 'sum(s["lost_ms_worker_faults"] for s in d["stages"]) > 0')" = True ] || fail "the fault cost nothing"

note "verify: all of it, some steps, and a digest that is wrong"
distill verify "$job" --timeout 10m >"$DIR/verify.out" 2>&1 || fail "verify: $(cat "$DIR/verify.out")"
says 'saved versions' <"$DIR/verify.out" || fail "no saved versions were compared: $(cat "$DIR/verify.out")"
distill verify "$job" --steps 2..5 --timeout 10m -o json >"$DIR/steps.json" || fail "verify --steps failed"
[ "$(pick 'd["equal"], {v["stage"] for v in d["versions"]}' <"$DIR/steps.json")" = "(True, {'distill'})" ] || fail "$(cat "$DIR/steps.json")"
last=$(stage_field "$job" distill committed)
distill verify "$job" --steps "$last..$last" --timeout 10m >/dev/null || fail "verify of the last step failed"
refused 5 'no digest of job' verify "$job" --steps 1..3 --stage evaluate
if /usr/bin/python3 -c 'import grpc' 2>/dev/null; then
    for bad in '"distill", "verify_from": 3, "verify_to": 2' '"distill", "verify_from": 1, "verify_to": 9999' \
        '"distill", "verify_to": 2' '"export", "verify_from": 1, "verify_to": 2' '"no", "verify_from": 1, "verify_to": 2'; do
        ! call Submit "{\"key\": \"bad\", \"replay_job\": \"$job\", \"verify_stage\": $bad}" >"$DIR/bad.out" 2>&1 ||
            fail "taken: $bad"
        grep -qE 'not within|no stage' "$DIR/bad.out" || fail "$bad: $(cat "$DIR/bad.out")"
    done
fi
refused 2 'steps' verify "$job" --steps 5..2
stop distilld
python3 - "$DIR/state/distilld.db" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
job = db.execute("SELECT id FROM jobs WHERE is_sweep = 0 ORDER BY n DESC LIMIT 1").fetchone()[0]
db.execute("UPDATE digests SET digest = '00000000000000000000000000000000' WHERE job = ? AND version ="
           " (SELECT min(version) FROM digests WHERE job = ? AND stage ="
           " (SELECT stage FROM stages WHERE job = ? AND name = 'distill')) AND stage ="
           " (SELECT stage FROM stages WHERE job = ? AND name = 'distill')", (job,) * 4)
db.commit()
PY
coordinator
await_workers 2
refused 1 DIFFERS verify "$job" --steps 2..5 --timeout 10m
