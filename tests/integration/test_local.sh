#!/usr/bin/env bash
# A cluster in one command, and a job on a cluster of its own: what they start, what they leave behind,
# however they end.
. tests/integration/cluster.sh
unset DISTILL_SERVER
export TMPDIR=$DIR/tmp
mkdir -p "$TMPDIR" "$DIR/work"

clean_up() {
    local rc=$? c
    set +e
    for c in local second third; do "$BUILD/distill" local down --context $c >/dev/null 2>&1; done
    (exit $rc)
    finish
}
trap clean_up EXIT

# Nothing is left: no folder, no process that was started for one.
gone() {
    local i
    for i in $(seq 200); do
        [ -z "$(ls -A "$TMPDIR")" ] && ! pgrep -f "data-root $DIR/data|$TMPDIR/distill-local" >/dev/null && return
        sleep 0.1
    done
    ls -A "$TMPDIR"
    pgrep -af "data-root $DIR/data|$TMPDIR/distill-local" || true
    fail "$1 left something behind"
}

small_data >/dev/null
cd "$DIR/data"
distill init --data flowers --name mine --size 32 --epochs 1 --teacher cheap_cnn --student cheap_cnn \
    --set teacher.fine_tune.epochs=1 --set distill.batch=16 --set distill.slots=4 >job.yaml
grep -q 'val: val.txt' job.yaml || fail "init did not see the lists"
mkdir empty
expect 78 'empty is no data set' distill init --data empty
expect 0 'format: npy' distill init --data empty --set data.labelled.format=npy --set data.labelled.train=x.npy \
    --set data.labelled.train_labels=y.npy
expect 0 'there is no folder elsewhere here' distill init --data elsewhere
expect 2 'error: teacher.model: expected one of' distill init --data flowers --teacher nosuch
cd "$OLDPWD"

note "up, status, down"
expect 69 'there is no local cluster' distill local status
distill context add other --server 127.0.0.1:1 >/dev/null
distill context use other >/dev/null
expect 0 'commands go to it from now on' distill local up --workers 2 --threads 1 --data-root "$DIR/data"
[ "$(distill workers -o name | wc -l)" -eq 2 ] || fail "not two workers"
expect 0 'local' distill context ls
expect 0 '2 idle' distill local status
expect 0 'alerts       none' distill cluster status
distill cluster status -o json | pick 'd["jobs"]["queued"] == 0 and d["workers"] == {"idle": 2} and d["free_bytes"] > 0' |
    says True || fail "cluster status -o json"
expect 5 'is up already' distill local up
expect 5 'distill local down' distill context rm local
distill submit "$DIR/data/job.yaml" --wait -q >/dev/null || fail "the job"
expect 0 'the local cluster is down' distill local down
grep -q 'other is in use again' "$DIR/out" || fail "it does not go back to the context before"
gone "down"
expect 69 'there is no local cluster' distill local down

# What a shell starts with & ignores Ctrl-C otherwise.
here=(env --default-signal=INT "$BUILD/distill")

note "up that is stopped half-way"
for how in INT KILL; do
    "${here[@]}" local up --data-root "$DIR/data" >"$DIR/up.out" 2>&1 &
    pid=$!
    for _ in $(seq 100); do compgen -G "$TMPDIR/*/logs/distilld.log" >/dev/null && break; sleep 0.02; done
    kill -$how $pid
    rc=0
    wait $pid || rc=$?
    [ $rc -eq 130 ] || [ $rc -eq 137 ] || fail "$how: exit code $rc: $(cat "$DIR/up.out")"
    gone "up after $how"
done
expect 69 'there is no local cluster' distill local status

note "two at once, in a folder that stays"
distill local up --workers 1 --dir "$DIR/kept" --context second --outside-teachers 127.0.0.1:1,127.0.0.1:2 >/dev/null 2>&1
taught=(--set 'teacher={kserve: "127.0.0.1:2", model: oracle, preprocess: unit}' --dry-run -q --context second)
# Permitted; that its worker, in another folder, finds no data is what is wrong.
expect 78 '"served": "oracle"' distill submit "$DIR/data/job.yaml" "${taught[@]}"
expect 4 '127.0.0.1:3 is none of the outside teachers' distill submit "$DIR/data/job.yaml" "${taught[@]/:2/:3}"
distill local up --workers 1 >/dev/null 2>&1
expect 5 'a local cluster runs in' distill local up --dir "$DIR/kept" --context third
expect 5 'holds other files' distill local up --dir "$DIR/data" --context third
id=$(distill submit "$DIR/data/job.yaml" -q --context second)
distill local down >/dev/null
expect 0 'its files stay in' distill local down --context second
distill local up --workers 1 --dir "$DIR/kept" >/dev/null 2>&1
[ "$(distill jobs -o name)" = "$id" ] || fail "the folder did not keep its jobs"

note "it ends by itself when the coordinator is gone"
kill -9 "$(pgrep -f "distilld --state-dir $DIR/kept/state")"
no_worker() { ! pgrep -f "name local-1 --data-root $PWD" >/dev/null; }
await 20 no_worker
for _ in $(seq 100); do distill local status 2>/dev/null | grep -q . || break; sleep 0.1; done
expect 69 'the coordinator was killed by signal 9' distill local status
expect 0 'it was not running any more' distill local down

note "run: the results, and nothing else"
cd "$DIR/work"
expect 0 'mine-results/student.safetensors' distill run "$DIR/data/job.yaml"
[ -s mine-results/result.json ] || fail "no results"
gone "run"
distill run "$DIR/data/job.yaml" -o json --workers 2 --output-dir two 2>/dev/null |
    /usr/bin/python3 -c '
import json, sys
lines = [json.loads(l) for l in sys.stdin]
assert lines[-1]["files"] and lines[-2]["kind"] == "end", lines[-2:]' || fail "run -o json"
digests() { grep -o '"digest": "[0-9a-f]*"' "$1/result.json"; }
[ -n "$(digests two)" ] && [ "$(digests two)" = "$(digests mine-results)" ] || fail "two workers made another student"

note "run: what goes wrong"
expect 5 'mine-results is there already' distill run "$DIR/data/job.yaml"
rm -r mine-results
expect 7 'no worker can serve it' distill run "$DIR/data/job.yaml" --set data.labelled.path=nowhere
expect 7 'what its finished stages made is in failed' distill run "$DIR/data/job.yaml" -O failed \
    --set student.model=shallow_cnn --set distill.epochs=3 --set distill.optimizer.name=sgd --set distill.optimizer.lr=1000
grep -qE 'NON_FINITE: the loss is not finite at step [0-9]+: first in layer [^,]+, sample [0-9]+ ' "$DIR/out" ||
    fail "not step, layer and sample: $(cat "$DIR/out")"
distill inspect failed/teacher.safetensors >/dev/null || fail "no teacher of a job that failed"
[ ! -e failed/student.safetensors ] || fail "a student of a job that failed"
expect 78 'no_such_key' distill run "$DIR/data/job.yaml" --set no_such_key=1
expect 78 'nosuch.yaml' distill run nosuch.yaml
expect 2 'there is no folder' distill run "$DIR/data/job.yaml" --data-root /nosuch
expect 2 'wants 3 workers at least' distill run "$DIR/data/job.yaml" --workers 2 --set cluster.min_workers=3
gone "a run that failed"
long=("$DIR/data/job.yaml" --set distill.epochs=5000)

note "run: Ctrl-C, twice, and a kill that cannot be caught"
for how in INT "INT INT" KILL; do
    "${here[@]}" run "${long[@]}" >"$DIR/run.out" 2>&1 &
    pid=$!
    await 30 grep -q 'distill begins' "$DIR/run.out"
    for s in $how; do kill -"$s" $pid 2>/dev/null || true; sleep 0.2; done
    rc=0
    wait $pid || rc=$?
    case $how in
    INT) [ $rc -eq 130 ] || fail "Ctrl-C: exit code $rc" ;;
    KILL) [ $rc -eq 137 ] || fail "kill: exit code $rc" ;;
    esac
    gone "run after $how"
done
