#!/usr/bin/env bash
# `distill serve` and a foreign gRPC client: the answers of `distill predict` whatever way they are asked for, from
# many clients at once; hostile requests, a full queue, a signal amid requests, TLS.
. tests/integration/cluster.sh
needs_grpc

ask() { /usr/bin/python3 tests/integration/serve_calls.py "$ADDRESS" "$@"; }

small_data
plain_job >"$DIR/job.yaml"
coordinator
worker one
await_workers 1
job=$(distill submit "$DIR/job.yaml" -q)
distill wait "$job" --timeout 10m
distill fetch "$job" -O "$DIR/got"
stop one
stop distilld
mkdir "$DIR/pictures"
ADDRESS=- ask pictures "$DIR/pictures"
distill quantize "$DIR/got/student.safetensors" --data "$DIR/data/flowers/images" -O "$DIR/eight.safetensors"

for model in got/student eight; do
    for layout in nhwc nchw; do
        note "$model, $layout"
        distill predict "$DIR/$model.safetensors" "$DIR/pictures" -o json --top 5 >"$DIR/predicted"
        serve served "$DIR/$model.safetensors" --name flowers --layout $layout --threads 2
        ask same flowers "$DIR/predicted"
        stop served
    done
done
[ "$(grep -cF "8 bits" "$DIR/serve-served.log")" = 2 ] || fail "an 8-bit model is not served in 8 bits"

note "what must be refused"
serve hostile "$DIR/got/student.safetensors" -o json
ask hostile student
stop hostile
pick 'd["failed"] > 30 and d["requests"] == 1 and d["latency_ms"]["p50"] > 0' <"$DIR/hostile.out" | grep -qx True ||
    fail "statistics: $(cat "$DIR/hostile.out")"

note "a full queue, then a signal amid requests"
serve full "$DIR/got/student.safetensors" --queue 4 --threads 1
ask full student
ask drain student "${PIDS[full]}"
rc=0; wait "${PIDS[full]}" || rc=$?
unset "PIDS[full]"
[ $rc -eq 0 ] || fail "exit code $rc after a signal"
grep -qE '^[1-9][0-9]* refused' "$DIR/full.out" || fail "statistics: $(cat "$DIR/full.out")"

note "TLS"
"$BUILD/distilld" init --state-dir "$DIR/tls" --listen 127.0.0.1:0 >/dev/null
tls=$DIR/tls/tls
serve tls "$DIR/got/student.safetensors" --tls-certificate "$tls/server.pem" --tls-key "$tls/server.key"
ask reach "" "$tls/ca.pem"
stop tls
serve tls "$DIR/got/student.safetensors" --tls-certificate "$tls/server.pem" --tls-key "$tls/server.key" --tls-clients "$tls/ca.pem"
ask reach "$tls/admin/identity.pem" "$tls/ca.pem"
if ask reach "" "$tls/ca.pem" 2>/dev/null; then fail "a client without a certificate was served"; fi
stop tls

note "flags that are missing"
expect 2 "--insecure" distill serve "$DIR/got/student.safetensors" --listen 0.0.0.0:0
expect 2 "TLS needs" distill serve "$DIR/got/student.safetensors" --tls-certificate "$tls/server.pem"
expect 2 "layout" distill serve "$DIR/got/student.safetensors" --layout chw
expect 2 "whole number" distill serve "$DIR/got/student.safetensors" --queue 0
expect 1 "cannot" distill serve "$DIR/nothing.safetensors"
