#!/usr/bin/env bash
# The Debian packages on a fresh Debian 12: installed, started, one job trained, upgraded, removed, purged
# (packages_inside.sh has the steps).
#
#   tests/deploy/packages.sh [FOLDER]     where the .deb files are (built by deploy/packages.sh if left out)
#
# Wants root, mmdebstrap, systemd-container, and Debian's mirror for the first part; else it ends with 77.
case ${1-} in
-*) sed -n '2,/^case/{/^case/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
. "$(dirname "$0")/machine.sh"
packages "${1-}"
mkdir "$DIR/newer"
# The same as of a later version, with a changed comment in each settings file.
for deb in "$DIR"/packages/*.deb; do
    dpkg-deb -R "$deb" "$DIR/tree"
    sed -i 's/^Version: .*/&+later/' "$DIR/tree/DEBIAN/control"
    for file in "$DIR"/tree/etc/distilld/distilld.yaml "$DIR"/tree/etc/default/distill-worker; do
        [[ ! -e $file ]] || echo "# A later version's comment." >>"$file"
    done
    (cd "$DIR/tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -b "$DIR/tree" "$DIR/newer/$(basename "$deb")" >/dev/null
    rm -rf "$DIR/tree"
done
cp tests/deploy/packages_inside.sh "$DIR/packages"
root fresh
boot fresh --private-network --bind-ro="$DIR/newer:/newer"
within fresh bash /packages/packages_inside.sh
