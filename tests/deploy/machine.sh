# Sourced by the tests of this folder that need fresh machines: Debian 12 that systemd boots in a container,
# with the .deb files of deploy/packages.sh in /packages and what they depend on in apt's cache, so that no
# machine needs a network outside. Only root may; 77 = skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

((EUID == 0)) || { echo "skipped: only root may boot a container"; exit 77; }
for tool in mmdebstrap systemd-nspawn dpkg-deb nsenter; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool (deploy/install-deps.sh --deploy)"; exit 77; }
done

DIR=$(mktemp -d /var/tmp/kd-machine-XXXXXX)
declare -A MACHINES=() LEADERS=()
finish() {
    local rc=$? name
    for name in "${!MACHINES[@]}"; do
        kill -KILL "${LEADERS[$name]:-${MACHINES[$name]}}" 2>/dev/null || true
        wait "${MACHINES[$name]}" 2>/dev/null || true
    done
    if declare -F tidy >/dev/null; then tidy; fi
    rm -rf --one-file-system "$DIR"
    exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM
fail() { echo "FAIL: $*"; exit 1; }
note() { echo "== $*"; }

# packages FOLDER: its .deb files, built if FOLDER is empty, to $DIR/packages.
packages() {
    local from=${1:-build/packages}
    [[ -n ${1-} ]] || deploy/packages.sh "$from"
    mkdir "$DIR/packages"
    cp "$from"/*.deb "$DIR/packages"
}

# base: a bare system is in $BASE_TAR. It is made out of Debian's packages, once.
BASE_TAR=build/deploy/base.tar
base() {
    [[ ! -s $BASE_TAR ]] || return 0
    mkdir -p build/deploy
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 bookworm build/deploy/part.tar
    mv build/deploy/part.tar "$BASE_TAR"
}

# root NAME: that system in $DIR/NAME.
root() {
    base
    mkdir "$DIR/$1"
    tar -xf "$BASE_TAR" -C "$DIR/$1"
    echo "$1" >"$DIR/$1/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$1" >"$DIR/$1/etc/hosts" # as Debian's installer does
    systemd-nspawn -q -D "$DIR/$1" --register=no --keep-unit --resolv-conf=copy-host --console=pipe \
        --bind-ro="$DIR/packages:/packages" /bin/sh -ec 'apt-get -qq update
            apt-get -qq -y --no-install-recommends --download-only install /packages/*.deb' \
        >"$DIR/apt.log" 2>&1 </dev/null || { cat "$DIR/apt.log"; fail "what the packages depend on cannot be fetched"; }
}

# boot NAME FLAGS...: as systemd-nspawn takes them; returns when it is up.
boot() {
    local name=$1 i
    shift
    systemd-nspawn -q -b -D "$DIR/$name" --machine="$name-$$" --hostname="$name" --register=no --keep-unit \
        --console=read-only --bind-ro="$DIR/packages:/packages" "$@" >"$DIR/$name.log" 2>&1 </dev/null &
    MACHINES[$name]=$!
    for ((i = 0; i < 300; i++)); do
        LEADERS[$name]=$(pgrep -P "${MACHINES[$name]}" | head -n 1 || true)
        [[ -z ${LEADERS[$name]} ]] || ! within "$name" systemctl is-system-running --quiet 2>/dev/null || return 0
        kill -0 "${MACHINES[$name]}" 2>/dev/null || break
        sleep 0.2
    done
    within "$name" systemctl --failed --no-legend || true
    tail -n 20 "$DIR/$name.log"
    fail "machine $name does not come up"
}

# within NAME COMMAND...: as root in a machine that runs.
within() {
    local leader=${LEADERS[$1]}
    shift
    nsenter -t "$leader" -m -u -i -n -p -C -- env -i HOME=/root USER=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive TERM=dumb "$@"
}
