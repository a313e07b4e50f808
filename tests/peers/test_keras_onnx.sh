#!/usr/bin/env bash
# Networks of Keras, exported by tf2onnx as ONNX, in our engine.
#
#   [KD_BUILD=build/dev] [KERAS_PYTHON=python3] tests/peers/test_keras_onnx.sh
#
# Exit code 0 if all agree, 77 if KERAS_PYTHON lacks tensorflow or tf2onnx, 1 otherwise. From PyPI:
# tensorflow-cpu==2.15.*, tf2onnx, 'onnx<1.17', 'numpy<2'.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

build=${KD_BUILD:-build/dev}
python=${KERAS_PYTHON:-python3}
if ! "$python" -c 'import tensorflow, tf2onnx' 2>/dev/null; then
    printf 'skipped: %s has no tensorflow or no tf2onnx\n' "$python"
    exit 77
fi
cmake --build "$build" --target kd_onnx_run >/dev/null || exit 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" tests/peers/onnx_keras.py "$build/tests/kd_onnx_run" "$folder"
