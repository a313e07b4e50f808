#!/usr/bin/env bash
# A worker that answers what nobody asked it, or that has other data than the rest, does not harm a job.
. tests/integration/cluster.sh
needs_grpc

odd() { # odd now|asked|broken JOB STAGE
    : >"$DIR/odd-said"
    /usr/bin/python3 tests/integration/odd_worker.py "$@" >"$DIR/odd-said" 2>"$DIR/odd.log" &
    PIDS[odd]=$!
}
await_odd() {
    for _ in $(seq 1200); do
        grep -q told "$DIR/odd-said" && return
        sleep 0.1
    done
    fail "the odd worker was not asked"
}

small_data
small_job | sed 's/, epochs: 1}$/}/' >"$DIR/job.yaml" # the twin has as many epochs as the student
coordinator

note "a message that breaks a bound: its worker is refused for the job, and keeps its stream"
job=$(distill submit "$DIR/job.yaml" -q)
odd broken "$job" 0
await_odd
for _ in $(seq 100); do distill show "$job" | says 'no worker can serve it: BAD_MESSAGE' && break; sleep 0.1; done
distill show "$job" | says 'no worker can serve it: BAD_MESSAGE' || fail "no reason: $(distill show "$job")"
says 'released BAD_MESSAGE: StageInfo.model has 65 bytes' <"$DIR/odd-said" || fail "the worker was told: $(cat "$DIR/odd-said")"
kill -0 "${PIDS[odd]}" || fail "it lost its stream"
worker a
distill wait "$job" --timeout 5m >/dev/null || fail "another worker cannot serve it: $(distill show "$job")"
stop odd KILL

await_workers 1

note "what a stage is made of, told by a worker that is not asked"
job=$(distill submit "$DIR/job.yaml" --set teacher.fine_tune.epochs=12 --set cluster.max_workers=1 -q)
await_steps "$job" teacher 1
odd now "$job" 1
await_odd
sleep 1 # the answer travels
[ "$(stage_field "$job" teacher digest)" = "" ] || fail "the teacher was done before the odd worker spoke"
distill wait "$job" --timeout 5m >/dev/null || fail "an answer that nobody asked for counted"
stop odd KILL

note "other data where others have agreed: the worker is refused, the continued job goes on"
short=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$short" --timeout 5m >/dev/null
job=$(call Submit "{\"key\": \"on\", \"continue_job\": \"$short\", \"continue_epochs\": 30}" | pick 'd["job"]')
await_steps "$job" distill 7
odd asked "$job" 2 # the twin, which goes on after the student
await_odd
distill wait "$job" --timeout 5m >/dev/null || fail "one worker with other data failed the job"
# Whoever of the two answers first is compared with the continued job, the other with him.
has_event "$job" 'worker refused: cannot go on with job' ||
    has_event "$job" 'worker refused: it counts 5000 parameters' || fail "it was not refused"
