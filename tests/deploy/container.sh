#!/usr/bin/env bash
# deploy/container/Containerfile without a registry: its base is the bare Debian 12 that the other tests boot,
# and the stage that compiles is replaced by .deb files that are there, unless it is to run. The images are
# built, and run as the user that they name: a coordinator with certificates, a worker that joins it, a client.
#
#   tests/deploy/container.sh [FOLDER]     FOLDER has the .deb files (built if left out)
#   tests/deploy/container.sh --compile    the stage that compiles runs too: some ten minutes
#
# Wants what packages.sh wants, and buildah; else it ends with 77.
compile=
case ${1-} in
--compile) compile=1 && shift ;;
-*) sed -n '2,/^compile=/{/^compile=/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
. "$(dirname "$0")/machine.sh"
command -v buildah >/dev/null || { echo "skipped: no buildah (deploy/install-deps.sh --deploy)"; exit 77; }
[[ -n $compile ]] || packages "${1-}"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF=$DIR/storage.conf
mkdir "$DIR/store" "$DIR/run" "$DIR/context"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/store"\nrunroot = "%s/run"\n' "$DIR" "$DIR" >"$CONTAINERS_STORAGE_CONF"
pids=()
# end PID: it and all below it; what runs in an image is some way below who started it here.
end() {
    local below
    for below in $(pgrep -P "$1"); do end "$below"; done
    kill -KILL "$1" 2>/dev/null || true
}
tidy() {
    local p
    for p in "${pids[@]}"; do end "$p"; done
    wait "${pids[@]}" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
}
quiet() { "$@" >"$DIR/said" 2>&1 || { cat "$DIR/said"; fail "$*"; }; }

note "images"
base
scratch=$(buildah from scratch 2>/dev/null)
quiet buildah add "$scratch" "$BASE_TAR" /
quiet buildah commit "$scratch" localhost/debian:bookworm
stages=()
if [[ -z $compile ]]; then
    cp -r "$DIR/packages" "$DIR/context/"
    stages=(--build-context build="$DIR/context")
fi
for name in distilld distill-worker distill-client; do
    quiet buildah bud --layers "${stages[@]}" --build-arg BASE=localhost/debian:bookworm \
        --network host --target "$name" -t "$name" -f deploy/container/Containerfile .
    [[ $(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$name") == 10001:10001 ]] || fail "$name: another user"
done

note "as the user of the image"
declare -A C=()
for name in distilld distill-worker distill-client; do C[$name]=$(buildah from "localhost/$name" 2>/dev/null); done
in_image() { # NAME COMMAND...
    local name=$1
    shift
    buildah run "${C[$name]}" -- "$@" 2> >(grep -v CNI >&2)
}
[[ $(in_image distilld id -u) == 10001 ]] || fail "not the user 10001"
! in_image distilld test -e /usr/bin/cc || fail "a compiler is in the image"
kept=$(in_image distilld ls -A /var/lib/distilld) || fail "no folder for the state"
[[ -z $kept ]] || fail "a state, maybe with a CA's key, is in the image: $kept"
in_image distilld distilld init --state-dir /var/lib/distilld --listen 127.0.0.1:0 >/dev/null
in_image distilld distilld --state-dir /var/lib/distilld --listen 127.0.0.1:0 --port-file /tmp/port >"$DIR/distilld.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    port=$(in_image distilld cat /tmp/port 2>/dev/null || true)
    [[ -z $port ]] || break
    sleep 0.3
done
[[ -n $port ]] || { cat "$DIR/distilld.log"; fail "it does not serve"; }
admin() { in_image distilld env DISTILL_CREDENTIALS=/var/lib/distilld/tls/admin DISTILL_SERVER="localhost:$port" distill "$@"; }
token=$(admin token create --role worker)
in_image distill-worker distill-worker join "$token" --server "localhost:$port"
in_image distill-worker distill-worker >"$DIR/worker.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    ! admin workers | grep -q idle || break
    sleep 0.3
done
admin workers | grep idle || { cat "$DIR/worker.log"; fail "the worker did not come"; }
in_image distill-client distill version
note "ok"
