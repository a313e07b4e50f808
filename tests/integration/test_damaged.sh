#!/usr/bin/env bash
# A damaged message of a control stream ends the stream and nothing else: no worker is refused for what it
# never said, none does what it was never told, and both ends meet again.
. tests/integration/cluster.sh
needs_grpc

await_line() { # FILE PATTERN [COUNT]
    for _ in $(seq 300); do
        [ "$(grep -c "$2" "$1")" -lt "${3:-1}" ] || return 0
        sleep 0.1
    done
    fail "$1 does not say $2: $(cat "$1")"
}

small_data
small_job | sed 's/, epochs: 1}$/}/' >"$DIR/job.yaml"
coordinator

note "what a worker says of a stage: a flipped bit, and no checksum where others had one"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
for how in flipped bare; do
    timeout 60 /usr/bin/python3 tests/integration/damaged.py worker $how "$job" >"$DIR/$how" 2>"$DIR/$how.log" ||
        fail "$how: $(cat "$DIR/$how.log")"
    says DATA_LOSS <"$DIR/$how" || fail "$how: its stream ended with $(cat "$DIR/$how")"
done
says 'CRC32C of its fields differs' <"$DIR/flipped" || fail "$(cat "$DIR/flipped")"
says 'without the checksum' <"$DIR/bare" || fail "$(cat "$DIR/bare")"
worker a
distill wait "$job" --timeout 5m >/dev/null || fail "another worker cannot serve it: $(distill show "$job")"
! has_event "$job" 'refused' || fail "a worker was refused"
stop a
stop distilld

note "what a worker is told: it joins again, twice, and then stays"
/usr/bin/python3 tests/integration/damaged.py coordinator >"$DIR/said" 2>"$DIR/coordinator.log" &
PIDS[damaged]=$!
await_line "$DIR/said" '^[0-9]'
DISTILL_SERVER=127.0.0.1:$(head -n 1 "$DIR/said")
worker b
await_line "$DIR/said" joined 3
await_line "$DIR/worker-b.log" 'CRC32C of its fields differs'
await_line "$DIR/worker-b.log" 'without the checksum'
await_line "$DIR/worker-b.log" 'joined: ' 2 # the first welcome was not heard
sleep 1.5
[ "$(grep -c joined "$DIR/said")" -eq 3 ] || fail "it joined again: $(cat "$DIR/said")"
stop b
stop damaged KILL
