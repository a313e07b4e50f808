#!/usr/bin/env bash
# deploy/kubernetes against Kubernetes' schemas; the settings in it are those of distilld.
#
#   [KD_BUILD=build/dev] [PEERS_PYTHON=...] tests/peers/test_kubernetes.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PEERS_PYTHON:-python3}
"$python" -c 'import kubernetes_validate' 2>/dev/null || { echo "skipped: no kubernetes-validate here"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$python" tests/peers/kubernetes.py deploy/kubernetes >"$dir/distilld.yaml"
[[ -s $dir/distilld.yaml ]]
build=${KD_BUILD:-build/dev}
cmake --build "$build" --target distilld distill-worker >/dev/null
# Read before the state folder, which is none here.
said=$("$build/distilld" --config "$dir/distilld.yaml" --state-dir /proc/nowhere 2>&1) && exit 1
[[ $said == *"/proc/nowhere"* ]] || { echo "FAIL: distilld.yaml: $said"; exit 1; }
for flag in --server --name --threads --drain-s; do
    grep -q -- "- $flag=" deploy/kubernetes/workers.yaml && "$build/distill-worker" --help | grep -q -- "$flag" ||
        { echo "FAIL: $flag"; exit 1; }
done
