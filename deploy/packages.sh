#!/usr/bin/env bash
# Builds the Debian packages distilld, distill-worker and distill-client out of the release build.
#
#   deploy/packages.sh [OUT]       the folder they go to (build/packages)
#
# Wants what deploy/install-deps.sh installs. Where lintian is installed, an error of it ends
# the script with 1.
set -euo pipefail
case ${1-} in
-*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-build/packages}")
mkdir -p "$out"
cmake --preset release >/dev/null
cmake --build --preset release --target package_files
rm -f "$out"/*.deb
(umask 022 && cpack --config build/release/CPackConfig.cmake -B "$out" >"$out/cpack.log" 2>&1) || {
    cat "$out/cpack.log" >&2
    exit 1
}
rm -rf "$out/_CPack_Packages"
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$out"/*.deb
fi
ls -l "$out"/*.deb
