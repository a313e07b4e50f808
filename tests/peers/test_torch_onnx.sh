#!/usr/bin/env bash
# Networks of torchvision, exported by PyTorch as ONNX, in our engine.
#
#   [KD_BUILD=build/dev] [TORCH_PYTHON=python3] tests/peers/test_torch_onnx.sh
#
# Exit code 0 if all agree, 77 if there is no torchvision (Debian: python3-torchvision), 1 otherwise.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

build=${KD_BUILD:-build/dev}
python=${TORCH_PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    # Debian's packages belong to Debian's interpreter, which need not be the first in PATH.
    "$python" -c 'import torchvision' 2>/dev/null || python=/usr/bin/python3
fi
if ! "$python" -c 'import torchvision' 2>/dev/null; then
    printf 'skipped: %s has no torchvision\n' "$python"
    exit 77
fi
cmake --build "$build" --target kd_onnx_run >/dev/null || exit 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" tests/peers/onnx_torch.py "$build/tests/kd_onnx_run" "$folder"
