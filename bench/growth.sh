#!/usr/bin/env bash
# How costs grow, a JSON line a point: workers of one step (1 to 64, a real exchange, the report's gradient),
# size of the gradient (0.6 MB to 1 GB), classes (10 to 100,000 in the loss, to the bank's most in the bank), images (1,000 to 10 million in
# the index).
#
#   bench/growth.sh [--build DIR] [workers] [gradient] [classes] [images]
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/cluster.sh
build=build/release
[[ ${1-} != --build ]] || { build=$2 && shift 2; }
for name in "$@"; do
    [[ $name =~ ^(workers|gradient|classes|images)$ ]] || usage
done
(($# > 0)) || set -- workers gradient classes images
for name in "$@"; do
    case $name in
    workers) bench/sum_path.sh --build "$build" --runs 3 --sizes 0.6 --workers "1 2 4 8 16 32 64" ;;
    gradient) bench/sum_path.sh --build "$build" --runs 1 --sizes "0.6 4 16 64 256 1000" --workers 2 ;;
    classes)
        for n in 10 100 1000 10000 100000; do "$build/growth" classes "$n"; done
        for n in 10 100 1000 10000 65536; do
            "$build/growth-bank" "$n" $((n > 1000 ? 20000000 / n : 20000)) "$dir/bank"
            rm -rf "$dir/bank"
        done
        ;;
    images) for n in 1000 10000 100000 1000000 10000000; do "$build/growth" images "$n" "$dir"; done ;;
    esac
done
