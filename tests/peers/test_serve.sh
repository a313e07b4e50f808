#!/usr/bin/env bash
# `distill serve` and Triton's own Python client: the numbers of our .proto are those of its messages, and it gets the
# answers of `distill predict`.
#
#   [KD_BUILD=build/dev] [PEERS_PYTHON=python3] tests/peers/test_serve.sh
#
# Exit code 0 if all agree, 77 if PEERS_PYTHON lacks tritonclient with gRPC, 1 otherwise.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
python=${PEERS_PYTHON:-python3}
if ! "$python" -c 'import tritonclient.grpc' 2>/dev/null; then
    printf 'skipped: %s has no tritonclient with gRPC\n' "$python"
    exit 77
fi
KD_BUILD=$(realpath "${KD_BUILD:-build/dev}")
cmake --build "$KD_BUILD" --target distill distilld distill-worker >/dev/null || exit 1
. tests/integration/cluster.sh

small_data
small_job >"$DIR/job.yaml"
coordinator
worker one
await_workers 1
job=$(distill submit "$DIR/job.yaml" -q)
distill wait "$job" --timeout 10m
distill fetch "$job" -O "$DIR/got"
distill predict "$DIR/got/student.safetensors" "$DIR/data/flowers/images" -o json --top 5 >"$DIR/predicted"
distill serve "$DIR/got/student.safetensors" --listen 127.0.0.1:0 --port-file "$DIR/served" >"$DIR/out" 2>"$DIR/serve.log" &
PIDS[serve]=$!
for _ in $(seq 300); do
    [ -s "$DIR/served" ] && break
    sleep 0.1
done
"$python" tests/peers/serve_triton.py "127.0.0.1:$(cat "$DIR/served")" student "$DIR/predicted" "$KD_BUILD/gen/inference_set.bin" ||
    fail "Triton's client"
stop serve
