#!/usr/bin/env bash
# Builds everything with ASan and UBSan and runs every test. Its exit code tells.
set -uo pipefail

usage() {
    cat <<'END'
Usage: [DISTILL_DATA=DIR] tests/run.sh [--no-install] [CTEST ARGUMENTS...]

Installs what it needs (deploy/install-deps.sh --test), checks the format of all C files, builds
the preset `dev` into build/dev and runs its tests, two at a time. Arguments go on to ctest:

  tests/run.sh                      everything
  tests/run.sh -L unit              the tests of one folder: unit numeric wire rpc fuzz
                                    models (needs spin: deploy/install-deps.sh --models) integration
  tests/run.sh -R test_job          one file
  DISTILL_DATA=DIR tests/run.sh     also the tests on real photographs and weights

Without DISTILL_DATA those tests are skipped; their names are printed at the end.
--no-install installs no packages. Exit code 0 only if format, build and tests are all well.
END
}

install=yes
case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
--no-install)
    install=no
    shift
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

step() { printf '== %s\n' "$*"; }
die() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}

if [[ -n ${DISTILL_DATA-} ]]; then
    DISTILL_DATA=$(cd "$DISTILL_DATA" 2>/dev/null && pwd) || die "DISTILL_DATA is no folder"
    export DISTILL_DATA
fi

if [[ $install == yes ]]; then
    deploy/install-deps.sh --test || die "packages are missing"
fi

# ---- format. Another version formats otherwise, so the one of Debian 12 is asked for by name.
formatter=clang-format
command -v clang-format-14 >/dev/null && formatter=clang-format-14
well_formed=yes
step "format ($formatter)"
mapfile -d '' -t sources < <(git ls-files -z '*.c' '*.h' 2>/dev/null ||
    find lib server worker client tests bench -name '*.[ch]' -print0)
((${#sources[@]} > 0)) || die "no C files found to check"
unformatted=$("$formatter" --dry-run -Werror "${sources[@]}" 2>&1) || {
    well_formed=no
    sed -nE 's/^(.*):([0-9]+):[0-9]+: error: .*/  \1: line \2/p' <<<"$unformatted" | sort -u -t: -k1,1
}

# ---- build
step "build (preset dev)"
log=$(cmake --preset dev 2>&1) || {
    printf '%s\n' "$log" >&2
    die "cmake could not configure the build"
}
cmake --build --preset dev || die "the build failed"

# ---- tests. ctest's closing lines are kept back, so that they are the last ones.
step "tests (DISTILL_DATA=${DISTILL_DATA:-unset})"
closing=
ctest --preset dev --parallel 2 --no-tests=error "$@" 2>&1 | {
    while IFS= read -r line; do
        [[ $line == *'% tests passed'* ]] && closing=yes
        [[ -n $closing ]] || printf '%s\n' "$line"
        [[ -z $closing ]] || printf '%s\n' "$line" >&3
    done
} 3>build/dev/closing-lines
rc=${PIPESTATUS[0]}

if [[ -z ${DISTILL_DATA-} ]]; then
    step "skipped, since DISTILL_DATA is unset"
    {
        grep -aoE '\[ +SKIPPED +\] +test_[A-Za-z0-9_]+' build/dev/Testing/Temporary/LastTest.log |
            sed 's/.*] */  /'
        sed -nE '/ - models \(/d; s/^.* - (.*) \(Skipped\)$/  \1/p' build/dev/closing-lines
    } | sort -u
fi
if grep -qE ' - models \(Skipped\)$' build/dev/closing-lines; then
    step "skipped, since Spin is not installed (deploy/install-deps.sh --models)"
    echo "  models"
fi
if [[ $well_formed == no ]]; then
    step "the format of the files named at the top is off; $formatter -i mends them"
    rc=1
fi
cat build/dev/closing-lines
exit "$rc"
