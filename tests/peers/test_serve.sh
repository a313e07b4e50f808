#!/usr/bin/env bash
# `distill serve` and Triton's own Python client: the numbers of our .proto are those of its messages, and it gets the
# answers of `distill predict`.
#
#   [KD_BUILD=build/dev] [PEERS_PYTHON=python3] tests/peers/test_serve.sh
#
# Exit code 0 if all agree, 77 if PEERS_PYTHON lacks tritonclient with gRPC, 1 otherwise.
. "$(dirname "${BASH_SOURCE[0]}")/small_job.sh" "tritonclient.grpc" "tritonclient with gRPC"

train
distill predict "$DIR/got/student.safetensors" "$DIR/data/flowers/images" -o json --top 5 >"$DIR/predicted"
serve triton "$DIR/got/student.safetensors"
"$python" tests/peers/serve_triton.py "$ADDRESS" student "$DIR/predicted" "$KD_BUILD/gen/inference_set.bin" ||
    fail "Triton's client"
stop triton
