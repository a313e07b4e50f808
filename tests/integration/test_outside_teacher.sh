#!/usr/bin/env bash
# A teacher that runs elsewhere: `distill serve` at the other end of the inference protocol. The student is the one that
# the same teacher makes here, whatever the number of workers, also when the server dies amid a job; another
# model under the same name is refused.
. tests/integration/cluster.sh

# taught_job TEACHER: a student whose teacher is asked in every epoch.
taught_job() {
    cat <<YAML
name: taught
seed: 3
data:
  labelled: {path: flowers, train: train.txt, val: val.txt, size: 32}
  augment: [flip, {crop: {pad: 2}}]
teacher: $1
student: {model: shallow_cnn}
distill: {epochs: 4, batch: 16, slots: 4, views: fresh, optimizer: {name: adam, lr: 1e-3}}
cluster: {checkpoint_every: 3}
YAML
}
# oracle MODEL FLAGS...: serves it on the same port each time.
oracle() {
    serve oracle "$@" --name oracle
    SERVE_PORT=${ADDRESS#*:}
}
# again FLAGS...: a coordinator with nothing in its state, so that no bank knows anything.
again() {
    stop distilld
    rm -rf "$DIR/state"
    COORDINATOR_FLAGS=("$@")
    coordinator
}
student() { stage_field "$1" distill digest; }
run() { # JOB.yaml FLAGS...: waits for it, and tells its id
    local job
    job=$(distill submit "$@" -q)
    distill wait "$job" --timeout 10m >/dev/null || fail "job $job: $(distill show "$job")"
    echo "$job"
}

small_data
coordinator
worker one
await_workers 1
for seed in 1 2; do
    plain_job $seed >"$DIR/plain.yaml"
    job=$(run "$DIR/plain.yaml")
    distill fetch "$job" -O "$DIR/model$seed" >/dev/null
done
note "the teacher here"
taught_job "{model: cheap_cnn, preprocess: unit, weights: $DIR/model1/student.safetensors}" >"$DIR/here.yaml"
here=$(student "$(run "$DIR/here.yaml")")

note "an address that the coordinator does not permit"
oracle "$DIR/model1/student.safetensors" --layout nchw
taught_job "{kserve: \"$ADDRESS\", model: oracle, preprocess: unit, pictures: 4, patience: 60}" >"$DIR/there.yaml"
expect 4 "outside_teachers" distill submit "$DIR/there.yaml"

note "the teacher there, one worker"
again --outside-teachers "127.0.0.1:1,$ADDRESS"
await_workers 1
job=$(run "$DIR/there.yaml")
[ "$(student "$job")" = "$here" ] || fail "another student than with the same teacher here"
has_event "$job" "its probe is" || fail "the probe is not recorded"
distill show "$job" -o json | pick 'd["resolved"]["teacher"]["probe"]' |
    grep -qE '^[0-9a-f]{32}$' || fail "the resolved job has no probe"
distill fetch "$job" -O "$DIR/there" >/dev/null
distill inspect "$DIR/there/student.safetensors" -o json | pick 'd["metadata"]["distilld.teacher"]' | says oracle

note "three workers, and the server killed amid the job"
stop oracle
oracle "$DIR/model1/student.safetensors"
again --outside-teachers "$ADDRESS"
worker two
worker three 2
await_workers 3
job=$(distill submit "$DIR/there.yaml" -q)
await_steps "$job" distill 4
stop oracle KILL
waits() { distill show "$job" | says "waiting for the teacher at $ADDRESS"; }
await 30 waits
oracle "$DIR/model1/student.safetensors"
distill wait "$job" --timeout 10m >/dev/null || fail "$(distill show "$job")"
[ "$(student "$job")" = "$here" ] || fail "another student with three workers"
distill show "$job" -o json | pick 'd["stages"][0]["teacher_forwards"] > 0' | grep -qx True || fail "no teacher runs are counted"

note "a coordinator that permits the teacher no more: the job waits, and goes on where it is permitted again"
job=$(distill submit "$DIR/there.yaml" -q)
await_steps "$job" distill 4
restart() { # OUTSIDE_TEACHERS: on the same state
    stop distilld
    COORDINATOR_FLAGS=(--outside-teachers "$1")
    coordinator
    await_workers 3
}
restart 127.0.0.1:1
distill show "$job" | says "its teacher 127.0.0.1:$SERVE_PORT is none that outside_teachers permits" ||
    fail "no reason: $(distill show "$job")"
distill workers -o json | pick 'all(w["state"] == "idle" for w in d["workers"])' | grep -qx True || fail "workers have a part in it"
restart "127.0.0.1:$SERVE_PORT"
distill wait "$job" --timeout 10m >/dev/null || fail "$(distill show "$job")"
[ "$(student "$job")" = "$here" ] || fail "another student after it had to wait"

note "another model under the same name"
taught_job "{kserve: \"$ADDRESS\", model: oracle, preprocess: unit, pictures: 4}" |
    sed 's/epochs: 4/epochs: 40/' >"$DIR/long.yaml"
job=$(distill submit "$DIR/long.yaml" -q)
await_steps "$job" distill 4
stop oracle KILL
oracle "$DIR/model2/student.safetensors"
rc=0
distill wait "$job" --timeout 10m >/dev/null || rc=$?
[ $rc -eq 7 ] || fail "exit code $rc of a job whose teacher has changed"
distill show "$job" | says "is not the teacher that it was" || fail "the reason is not told: $(distill show "$job")"

note "a new job takes it as it is now, and no answer of the other one"
other=$(student "$(run "$DIR/there.yaml")")
[ "$other" != "$here" ] || fail "the student of another teacher is the same"

note "what does not fit"
fails() { # TEXT FLAGS...
    local text=$1 job; shift
    job=$(distill submit "$DIR/there.yaml" "$@" -q)
    distill wait "$job" --timeout 2m >/dev/null 2>&1 && fail "$* succeeded"
    distill show "$job" | says "$text" || fail "$*: $(distill show "$job")"
}
fails "its input pixels is FP32 [-1, 32, 32, 3]" --set teacher.size=24
fails "there is no model" --set teacher.model=nobody
fails "FP32 [-1, 5] was expected" --set teacher.output=labels
stop oracle
fails "for longer than teacher.patience allows" --set teacher.patience=1

untrusted() { # JOB TEXT: its reason to wait
    says_so() { distill show "$1" | grep "no worker can serve it" | says "$2"; }
    await 30 says_so "$@"
}
note "over TLS: a worker that trusts another CA leaves the job to one that knows it"
for who in tls other; do
    "$BUILD/distilld" init --state-dir "$DIR/$who" --listen 127.0.0.1:0 >/dev/null
done
tls=$DIR/tls/tls
secret=(--tls-certificate "$tls/server.pem" --tls-key "$tls/server.key" --tls-clients "$tls/ca.pem")
for name in one two three; do stop $name; done
again --outside-teachers "127.0.0.1:$SERVE_PORT,127.0.0.2:$SERVE_PORT"
oracle "$DIR/model1/student.safetensors" "${secret[@]}"
DISTILL_TEACHER_CA=$DIR/other/tls/ca.pem worker stranger
await_workers 1
job=$(distill submit "$DIR/there.yaml" --set teacher.tls=true -q)
untrusted "$job" "its certificate is of another CA than the one that is trusted here"
export DISTILL_TEACHER_CA=$tls/ca.pem
DISTILL_TEACHER_IDENTITY=$tls/admin/identity.pem worker friend
distill wait "$job" --timeout 10m >/dev/null || fail "$(distill show "$job")"
[ "$(student "$job")" = "$here" ] || fail "another student over TLS"
stop stranger
stop friend

note "what TLS refuses"
refused() { # TEXT FLAGS...
    local text=$1 job; shift
    job=$(distill submit "$DIR/there.yaml" --set teacher.tls=true "$@" -q)
    untrusted "$job" "$text"
    distill cancel "$job" >/dev/null
}
again --outside-teachers "127.0.0.1:$SERVE_PORT,127.0.0.2:$SERVE_PORT"
worker nobody
await_workers 1
fails "it may want a certificate" --set teacher.tls=true --set teacher.patience=1
fails "it closed the connection" --set teacher.tls=false --set teacher.patience=1
stop oracle
SERVE_HOST=127.0.0.2 oracle "$DIR/model1/student.safetensors" "${secret[@]:0:4}"
refused "its certificate does not name this host" --set "teacher.kserve=127.0.0.2:$SERVE_PORT"
stop oracle
oracle "$DIR/model1/student.safetensors"
refused "it does not speak TLS"

note "a cluster of the job's own permits what the job names"
distill run "$DIR/there.yaml" --data-root "$DIR/data" --workers 2 --threads 1 -O "$DIR/ran" >/dev/null 2>"$DIR/run.log" ||
    fail "run: $(cat "$DIR/run.log")"
[ "$(pick 'd["digest"]' <"$DIR/ran/result.json")" = "$here" ] || fail "another student of a run"
expect 78 "teacher.tls: missing" distill submit "$DIR/there.yaml" --set teacher.kserve=gpu.example.org:8001
