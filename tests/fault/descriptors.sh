#!/usr/bin/env bash
# More connections than the coordinator has descriptors: they are refused, and it goes on serving.
set -euo pipefail

usage() {
    cat <<'END'
Usage: [KD_BUILD=build/dev] tests/fault/descriptors.sh

The coordinator may open 80 files. Hundreds of connections come while a job runs: some that say
nothing and stay, some that come and go. The job must end with the digests and the history of an
undisturbed one, clients must be served afterwards, and no step may fail for want of a descriptor.
END
}
NO_ARGUMENTS=yes
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

# flood: 400 connections that stay, then some that come and go until it is told to stop.
flood() {
    /usr/bin/python3 - "$DISTILL_SERVER" <<'PY' &
import random, socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
random.seed(1)
held = []
def one():
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect((host, int(port)))
        if random.random() < 0.5:
            s.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        held.append(s)
    except OSError:
        s.close()
for _ in range(400):
    one()
while True:
    random.shuffle(held)
    for s in held[:50]:
        s.close()
    del held[:50]
    for _ in range(60):
        one()
    time.sleep(0.05)
PY
    PIDS[flood]=$!
}

flooded() {
    local job
    AROUND_COORDINATOR=(bash -c 'ulimit -n 80; exec "$@"' -)
    cluster 2
    job=$(submit)
    await_steps "$job" distill 2
    flood
    await 200 grep -qE 'connections were (refused|cut)' "$DIR/distilld.log" || fail "no connection was refused"
    sleep 3
    stop flood KILL
    ended "$job"
    same "$job" "$(grep -oE 'number=[0-9]+' "$DIR/distilld.log" | head -n 1) connections refused or cut"
    distill jobs >/dev/null || fail "no longer served"
    ! grep -qi 'failed accept\|too many open files' "$DIR/distilld.log" || fail "ran out of descriptors"
    stop w1
    stop w2
    stop distilld
}

fault_data 4
case_of undisturbed undisturbed_job
case_of flooded flooded
table_end
