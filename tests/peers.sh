#!/usr/bin/env bash
# Compares our formats with other programs': the onnx package's own tests, ONNX Runtime, OpenCV, and
# whatever tests/peers/test_*.sh compare. Its exit code tells.
set -uo pipefail

usage() {
    cat <<'USAGE'
Usage: [KD_BUILD=DIR] tests/peers.sh [PART...]

Needs python3-venv and PyPI once: numpy, onnx, onnxruntime, opencv-python-headless, safetensors, jsonschema,
ruamel.yaml, kubernetes-validate and tritonclient with grpcio are installed into build/peers, never into the system. Builds what it
needs in KD_BUILD (default build/dev, configured if it is not there). Parts, all of them without arguments:

  nodes     the node tests of the onnx package for the operators that we read
  random    random models in the manner of PyTorch and TensorFlow, ours against ONNX Runtime
  exports   networks of ours in the onnx checker, ONNX Runtime and OpenCV's DNN
  schema    job files against `distill explain --json-schema`
  NAME      tests/peers/test_NAME.sh, which gets KD_BUILD and PEERS_PYTHON; exit code 77 = skipped

Exit code 0 only if no part failed.
USAGE
}

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
KD_BUILD=${KD_BUILD:-build/dev}
venv=build/peers
packages=(numpy onnx onnxruntime opencv-python-headless safetensors jsonschema ruamel.yaml kubernetes-validate tritonclient grpcio protobuf)
export KD_BUILD

step() { printf '== %s\n' "$*"; }
die() {
    printf 'tests/peers.sh: %s\n' "$*" >&2
    exit 1
}

# ---- the parts that there are
own=(nodes random exports schema)
scripts=()
for f in tests/peers/test_*.sh; do
    [[ -x $f ]] && f=${f#tests/peers/test_} && scripts+=("${f%.sh}")
done
parts=("$@")
((${#parts[@]})) || parts=("${own[@]}" "${scripts[@]}")
for p in "${parts[@]}"; do
    [[ " ${own[*]} ${scripts[*]} " == *" $p "* ]] ||
        die "there is no part $p; there are ${own[*]} ${scripts[*]}"
done

# ---- others' programs and ours
step "Python packages in $venv"
if [[ ! -x $venv/bin/python ]]; then
    python3 -m venv "$venv" || die "cannot make a virtual environment in $venv"
fi
have=$("$venv/bin/python" -m pip list --format=freeze 2>/dev/null | sed 's/==.*//')
missing=()
for p in "${packages[@]}"; do
    grep -qix -- "$p" <<<"$have" || missing+=("$p")
done
if ((${#missing[@]})); then
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "${missing[@]}" ||
        die "cannot install ${missing[*]}"
fi
export PEERS_PYTHON=$PWD/$venv/bin/python

step "build ($KD_BUILD)"
[[ -f $KD_BUILD/build.ninja ]] || cmake --preset dev >/dev/null || die "cmake could not configure"
cmake --build "$KD_BUILD" --target kd_onnx_run distill >/dev/null || die "the build failed"
tool=$KD_BUILD/tests/kd_onnx_run

# ---- all parts run, then the outcome
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=()
for p in "${parts[@]}"; do
    step "$p"
    case $p in
    nodes) "$PEERS_PYTHON" -W ignore tests/peers/onnx_nodes.py "$tool" "$folder" ;;
    random) "$PEERS_PYTHON" tests/peers/onnx_random.py "$tool" "$folder" ;;
    schema) "$PEERS_PYTHON" tests/peers/job_schema.py "$KD_BUILD/distill" ;;
    exports) "$PEERS_PYTHON" tests/peers/onnx_export.py "$tool" "$folder" ;;
    *) "tests/peers/test_$p.sh" ;;
    esac
    rc=$?
    if ((rc == 77)); then
        step "$p: skipped"
    elif ((rc != 0)); then
        failed+=("$p")
    fi
done
if ((${#failed[@]})); then
    step "FAILED: ${failed[*]}"
    exit 1
fi
step "all well"
