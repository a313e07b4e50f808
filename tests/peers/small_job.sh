# Sourced by the tests of what a job trains, with the Python modules that they need and how people call those. Without
# them the test is skipped; else our programs are built, and `train` has a cluster for them (tests/integration/cluster.sh).
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
python=${PEERS_PYTHON:-python3}
if ! "$python" -c "import $1" 2>/dev/null; then
    printf 'skipped: %s has no %s\n' "$python" "$2"
    exit 77
fi
KD_BUILD=$(realpath "${KD_BUILD:-build/dev}")
cmake --build "$KD_BUILD" --target distill distilld distill-worker >/dev/null || exit 1
. tests/integration/cluster.sh

# train FLAGS...: the small job, submitted with these; its files lie in $DIR/got.
train() {
    local job
    small_cluster one
    job=$(distill submit "$DIR/job.yaml" "$@" -q)
    distill wait "$job" --timeout 10m
    distill fetch "$job" -O "$DIR/got"
}
