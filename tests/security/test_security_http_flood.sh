#!/usr/bin/env bash
# Connections without a session that are held open on the HTTPS port, more than it takes: probes, scrapers and a live
# stream are served all the while.
. tests/security/secure.sh
command -v curl >/dev/null || exit 77

COORDINATOR_FLAGS=(--http 127.0.0.1:0 --http-port-file "$DIR/http-port")
secure_coordinator
HTTP=$(cat "$DIR/http-port")
viewer=$(token --session --role viewer --name ada --ttl 1h)
http() { curl -sS --max-time 5 --cacert "$DIR/state/tls/ca.pem" "${@:2}" "https://localhost:$HTTP$1"; }
flood() { # KIND: begins, and is there
    /usr/bin/python3 tests/security/http_flood.py "$1" "$HTTP" "$DIR/$1" 2>"$DIR/$1.err" &
    PIDS[$1]=$!
    [ "$1" = slow ] || await 60 test -s "$DIR/$1"
}
served() { # HOW_OFTEN
    for _ in $(seq "$1"); do
        [ "$(http /healthz)" = ok ] || fail "/healthz is not answered"
        [ "$(http /readyz)" = ready ] || fail "/readyz is not answered"
        http /metrics -H "Authorization: Bearer $viewer" | says distill_build_info || fail "/metrics is not answered"
    done
}
COORDINATOR_FD=/proc/$(pgrep -P "${PIDS[distilld]}" distilld || echo "${PIDS[distilld]}")/fd
before=$(ls "$COORDINATOR_FD" | wc -l)
curl -sSN --cacert "$DIR/state/tls/ca.pem" -H "Authorization: Bearer $viewer" \
    "https://localhost:$HTTP/api/v1/stream" >"$DIR/stream" &
PIDS[stream]=$!
await 20 grep -q '^event: jobs' "$DIR/stream"

note "200 idle ones from the address that the probes come from"
flood idle
kill -0 "${PIDS[idle]}" || fail "the flood ended: $(cat "$DIR/idle.err")"
served 5
n=$(($(ls "$COORDINATOR_FD" | wc -l) - before))
[ "$n" -le 110 ] || fail "$n descriptors more than before"
log_says 'connections were cut' || fail "none was cut"
stop idle KILL

note "200 from another address, in four ways, made anew as they are cut"
flood again
served 10
kill -0 "${PIDS[again]}" || fail "the flood ended: $(cat "$DIR/again.err")"
stop again KILL

note "a request that comes a byte a second is given up"
flood slow
wait "${PIDS[slow]}" || fail "the slow ones: $(cat "$DIR/slow.err")"
unset "PIDS[slow]"
awk '$1 == "lives" || $1 < 8 || $1 > 16 { bad = 1 } END { exit bad || NR != 3 }' "$DIR/slow" || fail "cut after: $(cat "$DIR/slow")"
served 1

note "the stream from before goes on"
kill -0 "${PIDS[stream]}" || fail "the stream was cut"
lines=$(wc -l <"$DIR/stream")
more_lines() { [ "$(wc -l <"$DIR/stream")" -gt "$lines" ]; }
await 40 more_lines
stop stream KILL
stop distilld
