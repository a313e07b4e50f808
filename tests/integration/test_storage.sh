#!/usr/bin/env bash
# What is kept on the coordinator's disk: rules of retention, banks, checkpoints as networks.
. tests/integration/cluster.sh

COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
small_cluster one
# retention EXPRESSION: of the answer.
retention() { distill retention -o json | pick "$1"; }
kept() { retention "{k['what']: k for k in d['kept']}['$1']['$2']"; }
# await_is VALUE COMMAND...
await_is() {
    local want=$1 got; shift
    for _ in $(seq 100); do
        got=$("$@")
        [ "$got" = "$want" ] && return
        sleep 0.1
    done
    fail "$*: $got, $want was expected"
}

note "a job, whose checkpoints are networks on the way"
job=$(distill submit "$DIR/job.yaml" --wait -q)
want=$(digests "$job")
distill checkpoint ls "$job"
distill fetch "$job" -O "$DIR/files" >/dev/null
expect 0 'distill after step 12, digest' distill checkpoint get "$job" --step last -O "$DIR/last.safetensors"
[ "$(distill inspect "$DIR/last.safetensors" -o json | pick 'd["metadata"]["distilld.digest"]')" = "$(stage_field "$job" distill digest)" ] ||
    fail "the last checkpoint is not the student"
expect 0 'distill after step' distill checkpoint get "$job" --step best -O "$DIR/best.safetensors"
cmp <(tail -c 100000 "$DIR/best.safetensors") <(tail -c 100000 "$DIR/files/student.best.safetensors") ||
    fail "the best checkpoint is not student.best.safetensors"
distill predict "$DIR/last.safetensors" "$DIR"/data/flowers/images/*/*1.jpg -o json >/dev/null || fail "predict does not take it"
expect 3 'no such checkpoint' distill checkpoint get "$job" --step 7
expect 2 'best or last is expected' distill checkpoint get "$job" --step foo
expect 3 'no stage' distill checkpoint get "$job" --stage nothing
(BUILD=$(realpath "$BUILD") && cd "$DIR" && expect 0 scratch-6.safetensors distill checkpoint get "$job" --stage scratch)

note "its banks"
distill bank ls
[ "$(distill bank ls -o json | pick '[b["jobs"] for b in d["banks"]]')" = "[['$job'], ['$job']]" ] ||
    fail "the banks are not the job's"
[ "$(distill bank ls -o json | pick 'sorted((b["records"], b["wanted"]) for b in d["banks"])')" = "[(37, 37), (90, 90)]" ] ||
    fail "the banks are not complete"
mapfile -t banks < <(distill bank ls -o json | pick '"\n".join(b["bank"] for b in d["banks"])')
expect 0 'is whole: ' distill bank verify "${banks[@]}"
expect 3 'no logit bank' distill bank verify 00000000000000000000000000000000
expect 3 'no logit bank' distill bank rm ../
records=$DIR/state/bank/${banks[0]}/records.bin
cp "$records" "$DIR/records"
printf 'x' | dd of="$records" bs=1 seek=100 conv=notrunc status=none
expect 1 'is damaged at byte 0' distill bank verify "${banks[0]:0:8}"
cp "$DIR/records" "$records"
expect 0 'is whole' distill bank verify "${banks[0]}"
expect 0 'removed' distill bank rm "${banks[0]}"
[ ! -e "$DIR/state/bank/${banks[0]}" ] || fail "the bank's folder is still there"
expect 3 'no logit bank' distill bank rm "${banks[0]}"

note "a job that runs keeps its bank and what it goes on from"
running=$(distill continue "$job" --epochs 300 -q)
await_steps "$running" distill 14
expect 5 'not over uses the bank' distill bank rm "$(distill bank ls -o json | pick '[b["bank"] for b in d["banks"] if b["in_use"]][0]')"
expect 0 'keep_checkpoints' distill retention set keep_checkpoints=1s keep_banks=1s -o json
[ "$(retention '[(r["name"], r["value"], r["configured"]) for r in d["rules"] if r["changed"]]')" = \
    "[('keep_checkpoints', 1, 7776000), ('keep_banks', 1, 7776000)]" ] || fail "the rules are not those that were set"
expect 0 'checkpoints,1,0,' distill retention -o csv
[ "$(distill retention -o name | tr '\n' ' ')" = 'checkpoints logs banks uploads ' ] || fail "-o name: $(distill retention -o name)"
[ "$(distill retention -o jsonl | wc -l)" = 4 ] || fail "-o jsonl: $(distill retention -o jsonl)"
sleep 3
distill checkpoint ls "$job" -o json | pick 'len(d["checkpoints"])' | says 2 || fail "checkpoints of a job that is needed went"
[ "$(distill bank ls -o json | pick 'any(b["in_use"] for b in d["banks"])')" = True ] || fail "a bank in use went"
expect 0 '' distill checkpoint get "$running" --step last -O "$DIR/running.safetensors"
expect 0 '' distill retention reset keep_checkpoints keep_banks
[ "$(retention '[r["name"] for r in d["rules"] if r["changed"]]')" = '[]' ] || fail "the rules were not taken back"
distill cancel "$running" >/dev/null

note "once nothing needs them they go, and say so, whenever the coordinator is killed on the way"
stop distilld
COORDINATOR_FLAGS+=(--keep-checkpoints 1s --keep-banks 1s)
# killed POINT: the coordinator comes to it and dies there.
killed() {
    AROUND_COORDINATOR=(env DISTILL_FAILPOINTS="$1=kill")
    coordinator
    local rc=0
    wait "${PIDS[distilld]}" || rc=$?
    [ $rc -eq 137 ] || fail "the coordinator was not killed at $1: $rc"
    AROUND_COORDINATOR=()
}
killed keep.drop
[ -n "$(find "$DIR/state/jobs/$job" -name 'stage*-version*')" ] || fail "files went before what names them"
killed bank.doomed
ls "$DIR/state/bank" | says .dropped || fail "no bank was on its way out"
coordinator
await_workers 1
await_event "$job" 'its checkpoints, '
[ "$(distill events "$job" -o json | grep -c '"dropped"')" = 1 ] || fail "it was dropped more than once"
distill checkpoint ls "$job" -o json | pick 'd["checkpoints"]' | says '[]' || fail "checkpoints are still listed"
[ -z "$(find "$DIR/state/jobs/$job" -name 'stage*-version*')" ] || fail "files of checkpoints stay"
expect 5 'has no last checkpoint any more' distill continue "$job" --epochs 1
expect 0 '' distill fetch "$job" student.safetensors -O "$DIR/again"
[ "$(digests "$job")" = "$want" ] || fail "digests changed"
[ "$(kept checkpoints dropped)" -ge 1 ] || [ "$(kept banks dropped)" -ge 1 ] || fail "no drop was counted"
# Both of one moment: another job's may go in between.
counted() { [ "$(kept checkpoints dropped)" != "$(metric 'distill_dropped_items_total{of="checkpoints"}')" ] || echo alike; }
await_is alike counted
if command -v promtool >/dev/null; then
    promtool check metrics < <(metrics) || fail "metrics"
fi
await_is '[]' sh -c "'$BUILD/distill' bank ls -o json | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)[\"banks\"])'"
await_is '' ls "$DIR/state/bank"
says 'a logit bank was dropped: older than keep_banks' <"$DIR/distilld.log" || fail "the log does not say it"

note "rules outlive the coordinator"
expect 0 '' distill retention set keep_uploads=3d
stop distilld
coordinator
[ "$(retention '[(r["name"], r["value"]) for r in d["rules"] if r["changed"]]')" = "[('keep_uploads', 259200)]" ] ||
    fail "the rules were forgotten"
[ "$(retention '[r["configured"] for r in d["rules"]][0]')" = 1 ] || fail "the configuration is not told"
expect 2 'wants a duration' distill retention set keep_logs=often
expect 2 'no retention rule' distill retention set state_dir=/
expect 2 'wants a size' distill retention set keep_logs_size=-1

note "logs: beginning and end stay"
expect 0 '' distill retention set keep_logs_size=1
await_event "$job" 'its events and logs, '
[ "$(distill events "$job" -o json | /usr/bin/python3 -c 'import json, sys; print(sorted({json.loads(l)["kind"] for l in sys.stdin}))')" = \
    "['dropped', 'finished', 'started', 'submitted']" ] || fail "other events stay: $(distill events "$job")"
expect 0 '' distill retention reset keep_logs_size

note "an upload that no job names"
touch -d '8 days ago' "$DIR/state/blobs/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" "$DIR/state/blobs/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.part"
expect 0 '' distill retention set keep_uploads=6d
await_is '' find "$DIR/state/blobs" -type f

note "rules of size: the oldest goes until what stays is within them"
distill retention reset keep_uploads keep_checkpoints keep_banks
stop distilld
COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
coordinator
await_workers 1
first=$(distill submit "$DIR/job.yaml" --set seed=11 --wait -q)
second=$(distill submit "$DIR/job.yaml" --set seed=12 --wait -q)
of_job() { distill checkpoint ls "$1" -o json | pick 'sum(c["size"] for c in d["checkpoints"])'; }
keep=$(of_job "$second")
[ "$keep" -gt 0 ] && [ "$(of_job "$first")" -gt 0 ] || fail "there are no checkpoints to drop"
expect 0 '' distill retention set keep_checkpoints_size=$((keep + 1))
await_event "$first" 'all of them were more than keep_checkpoints_size'
sleep 2
[ "$(of_job "$first")" -eq 0 ] && [ "$(of_job "$second")" -eq "$keep" ] || fail "others went: $(of_job "$first") $(of_job "$second")"
[ "$(distill bank ls -o json | pick 'len(d["banks"])')" -ge 2 ] || fail "there are too few banks: $(distill bank ls)"
newest=$(distill bank ls -o json | pick 'd["banks"][0]["bank"]')
size=$(distill bank ls -o json | pick 'd["banks"][0]["bytes"]')
expect 0 '' distill retention set keep_banks_size=$size
await_is "['$newest']" sh -c "'$BUILD/distill' bank ls -o json | /usr/bin/python3 -c 'import json, sys; print([b[\"bank\"] for b in json.load(sys.stdin)[\"banks\"]])'"
says 'all of them were more than keep_banks_size' <"$DIR/distilld.log" || fail "the log does not say why a bank went"
head -c 3000000 /dev/zero >"$DIR/state/blobs/cccccccccccccccccccccccccccccccc"
touch -d '2 days ago' "$DIR/state/blobs/cccccccccccccccccccccccccccccccc"
head -c 1000000 /dev/zero >"$DIR/state/blobs/dddddddddddddddddddddddddddddddd"
touch -d '1 day ago' "$DIR/state/blobs/dddddddddddddddddddddddddddddddd"
expect 0 '' distill retention set keep_uploads_size=2M
await_is "$DIR/state/blobs/dddddddddddddddddddddddddddddddd" find "$DIR/state/blobs" -type f
rm "$DIR/state/blobs/dddddddddddddddddddddddddddddddd"

note "distill rm frees at once"
expect 0 'freed' distill rm "$job"
[ ! -e "$DIR/state/jobs/$job" ] || fail "files of the removed job stay"
stop one
stop distilld
