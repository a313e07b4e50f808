#!/usr/bin/env bash
# Converts random networks of torchvision and Keras with docs/convert_*.py and compares our logits with
# theirs.
#
#   [KD_BUILD=build/dev] [TORCH_PYTHON=python3] [KERAS_PYTHON=python3] tests/peers/test_convert.sh
#
# A part whose Python lacks its library is skipped, with the reason. Exit code 0 when everything that
# ran agrees, 77 when nothing could run, 1 otherwise.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

build=${KD_BUILD:-build/dev}
cmake --build "$build" --target kd_convert_check >/dev/null || exit 1
program=$build/tests/kd_convert_check
ran=no
rc=0

has() { # PYTHON MODULE
    "$1" -c "import $2" 2>/dev/null
}

part() { # NAME PYTHON
    ran=yes
    "$2" tests/peers/convert_check.py "$1" "$program" || {
        printf 'failed: convert_%s\n' "$1"
        rc=1
        return
    }
    printf 'passed: convert_%s\n' "$1"
}

torch=${TORCH_PYTHON:-}
if [[ -z $torch ]]; then
    torch=python3
    # Debian's packages belong to Debian's interpreter, which need not be the first in PATH.
    has "$torch" torchvision || torch=/usr/bin/python3
fi
if has "$torch" torchvision; then
    part torchvision "$torch"
else
    printf 'skipped: convert_torchvision: %s has no torchvision\n' "$torch"
fi
keras=${KERAS_PYTHON:-python3}
if has "$keras" keras || has "$keras" tensorflow; then
    part keras "$keras"
else
    printf 'skipped: convert_keras: %s has neither keras nor tensorflow\n' "$keras"
fi
[[ $ran == yes ]] || exit 77
exit $rc
