#!/usr/bin/env bash
# Ten thousand connections that never say who they are, each half open in one of four ways, at a coordinator with 1024
# descriptors: a job goes on, and people are served all the while.
. tests/security/secure.sh
small_data
small_job >"$DIR/job.yaml"
ulimit -n "$(ulimit -H -n)"
[ "$(ulimit -n)" -ge 10500 ] || { echo "this system allows a process only $(ulimit -n) open files"; exit 77; }
AROUND_COORDINATOR=(bash -c 'ulimit -n 1024; exec "$@"' -)
secure_coordinator
secure_worker w1
await_workers 1
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=40 -q)
await_steps "$job" distill 2

note "half open: silent, in the middle of a TLS hello, after TLS, after the HTTP/2 preface"
/usr/bin/python3 - "$DISTILL_SERVER" "$DIR/held" <<'PY' &
import socket, ssl, sys, time
host, port = sys.argv[1].rsplit(":", 1)
ctx = ssl.create_default_context()
ctx.check_hostname = False
ctx.verify_mode = ssl.CERT_NONE
ctx.set_alpn_protocols(["h2"])
held, opened = [], 0
while opened < 10000:
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect((host, int(port)))
        kind = opened % 40  # TLS costs its maker as much as the server
        if kind == 1:
            s.sendall(bytes.fromhex("16030100ff010000fb0303"))
        elif kind in (2, 3):
            s = ctx.wrap_socket(s)
            if kind == 3:
                s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    except OSError:
        pass  # cut already
    held.append(s)
    opened += 1
open(sys.argv[2], "w").write(str(opened))
time.sleep(300)
PY
PIDS[flood]=$!
served=0 worst=0
while [ ! -s "$DIR/held" ]; do
    kill -0 "${PIDS[flood]}" || fail "the flood ended"
    begin=$(date +%s%N)
    expect 0 'admin (admin)' distill whoami
    took=$((($(date +%s%N) - begin) / 1000000))
    [ "$took" -le "$worst" ] || worst=$took
    served=$((served + 1))
done
note "$(cat "$DIR/held") connections made, none of them closed by their maker; served $served people meanwhile, the slowest in $worst ms"
[ "$served" -ge 3 ] || fail "only $served were served"
for _ in 1 2 3 4 5; do expect 0 'admin (admin)' distill whoami; done
says 'connections were cut' <"$DIR/distilld.log" || fail "none was cut"
n=$(ls "/proc/$(pgrep -P "${PIDS[distilld]}" distilld || echo "${PIDS[distilld]}")/fd" | wc -l)
[ "$n" -ge 1 ] && [ "$n" -le 1024 ] || fail "$n descriptors are open"
expect 0 'running' distill jobs
stop flood KILL
expect 0 '' distill wait "$job" --timeout 5m
stop w1
stop distilld
