#!/usr/bin/env bash
# README's walk from nothing to a finished job, line for line, on two fresh Debian 12 machines: systemd boots
# each in a container with a network namespace of its own, with a cable between the two.
#
#   tests/deploy/two_hosts.sh [--record FILE] [--build|FOLDER]     FOLDER has the .deb files (built here if left out)
#
# --record writes what was typed and printed. --build begins as README does: a third fresh machine installs what a
# build needs and makes the packages out of the commit that is checked out; that is timed, too. Wants what packages.sh
# wants; else it ends with 77.
case ${1-} in
--record) record=$(realpath -m "$2") && shift 2 ;;
--build) ;;
-*) sed -n '2,/^case/{/^case/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
. "$(dirname "$0")/machine.sh"

tidy() {
    ip netns del "kd$$-a" 2>/dev/null || true
    ip netns del "kd$$-b" 2>/dev/null || true
}
# readme WORDS: the indented lines that follow the paragraph with these words.
readme() {
    awk -v words="$1" 'index($0, words) {found = 1; next} found && /^    / {print substr($0, 5); lines++; next}
                       found && lines && !/^ *$/ {exit}' README.md
}
# type_in MACHINE: runs standard input there, line for line in one shell, and shows both.
type_in() {
    local name=$1 text rc=0
    text=$(cat)
    {
        echo "cd /packages"
        while IFS= read -r line; do
            printf 'printf "%%s\\n" %q\n%s\n' "$name# $line" "$line"
        done <<<"$text"
    } >"$DIR/typed"
    within "$name" bash -e <"$DIR/typed" 2>&1 | tee -a "$DIR/record" || rc=$?
    [[ $rc == 0 ]] || fail "$name: exit code $rc"
}

# build_packages: README's line in a fresh machine that reaches Debian's mirror; $built are its seconds.
build_packages() {
    local line begun
    line=$(readme 'Build the packages once')
    base
    mkdir "$DIR/builder"
    tar -xf "$BASE_TAR" -C "$DIR/builder"
    mkdir "$DIR/builder/src"
    git archive HEAD | tar -xC "$DIR/builder/src"
    note "on the machine that builds: $line"
    begun=$SECONDS
    systemd-nspawn -q -D "$DIR/builder" --register=no --keep-unit --resolv-conf=copy-host --console=pipe --chdir=/src \
        /bin/bash -ec "$line" >"$DIR/build.log" 2>&1 </dev/null || { tail -n 50 "$DIR/build.log"; fail "no packages were made"; }
    built=$((SECONDS - begun))
}

built=
if [[ ${1-} == --build ]]; then
    build_packages
    packages "$DIR/builder/src/build/packages"
    rm -rf --one-file-system "$DIR/builder"
else
    packages "${1-}"
fi
root coordinator
cp -a "$DIR/coordinator" "$DIR/worker"
echo worker >"$DIR/worker/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 worker\n10.78.0.1 coordinator\n' >"$DIR/worker/etc/hosts"
ip netns add "kd$$-a"
ip netns add "kd$$-b"
ip link add host0 netns "kd$$-a" type veth peer name host0 netns "kd$$-b"
n=1
for space in "kd$$-a" "kd$$-b"; do
    ip -n "$space" link set lo up
    ip -n "$space" addr add "10.78.0.$n/24" dev host0
    ip -n "$space" link set host0 up
    n=2
done
begun=$SECONDS
boot coordinator --network-namespace-path="/run/netns/kd$$-a"
boot worker --network-namespace-path="/run/netns/kd$$-b"
! within worker bash -c 'echo >/dev/tcp/coordinator/7070' 2>/dev/null || fail "somebody listens already"

# What a person answers to apt.
apt='s/^apt-get install/apt-get install -qq -y --no-install-recommends/'
note "on the machine coordinator"
readme 'the others know as `coordinator`' | sed "$apt" | type_in coordinator
worker_token=$(grep -o '^distill1\.[^ ]*' "$DIR/record" | sed -n 1p)
user_token=$(grep -o '^distill1\.[^ ]*' "$DIR/record" | sed -n 2p)
[[ -n $user_token ]] || fail "no tokens were printed"
note "on the worker"
readme 'On each worker' | sed "$apt; s/WORKER_TOKEN/$worker_token/" | type_in worker
for _ in $(seq 50); do
    ! within coordinator journalctl --no-pager -u distilld | grep -q 'worker joined' || break
    sleep 0.2
done
note "as anybody"
readme 'As anybody' | sed "s/USER_TOKEN/$user_token/; s/-O out/-O \/root\/out/" | type_in worker
took=$((SECONDS - begun))

within worker test -s /root/out/student.safetensors || fail "no student"
grep -q idle "$DIR/record" || fail "the worker was not seen idle"
within worker distill whoami | grep -q submitter || fail "whoami"
# Nothing crossed the cable unprotected: without a certificate nothing is told.
refused() { # WHY FLAGS...: to a stranger on the worker
    local why=$1 rc=0; shift
    within worker env HOME=/nowhere distill jobs --server coordinator:7070 "$@" >"$DIR/stranger" 2>&1 || rc=$?
    [[ $rc != 0 ]] && grep -qF "$why" "$DIR/stranger" || { cat "$DIR/stranger"; fail "jobs $*: exit code $rc"; }
}
refused 'no certificate for coordinator:7070'
refused 'cannot reach coordinator coordinator:7070' --insecure
((took < 600)) || fail "it took $took seconds, ten minutes are promised"
[[ -z ${record-} ]] || sed 's/\(distill1\.[A-Za-z0-9_-]\{6\}\)[A-Za-z0-9_.-]*/\1.../g' "$DIR/record" >"$record"
[[ -z $built ]] || note "the packages were made in $built seconds, by $(nproc) cores"
note "ok: from two fresh machines to a fetched student in $took seconds"
