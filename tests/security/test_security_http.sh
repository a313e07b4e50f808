#!/usr/bin/env bash
# HTTP where the coordinator has certificates: HTTPS, sessions for browsers and programs, nothing without.
. tests/security/secure.sh
command -v curl >/dev/null || exit 77

COORDINATOR_FLAGS=(--http 127.0.0.1:0 --http-port-file "$DIR/http-port")
secure_coordinator
HTTP=$(cat "$DIR/http-port")
http() { curl -sS --max-time 20 --cacert "$DIR/state/tls/ca.pem" "${@:2}" "https://localhost:$HTTP$1"; }
code() { http "$@" -o "$DIR/body" -w '%{http_code}'; }

note "without a session: probes, and what to do"
[ "$(http /healthz)" = ok ] || fail "no health"
for path in / /metrics /api/v1/jobs /api/v1/stream; do
    [ "$(code $path)" = 401 ] || fail "$path is answered"
    grep -q 'token create --session' "$DIR/body" || fail "$path does not say what to do"
done
rc=0
curl -s --max-time 5 "http://127.0.0.1:$HTTP/healthz" >"$DIR/body" || rc=$?
[ $rc -ne 0 ] || fail "plain text is answered: $(cat "$DIR/body")"
[ "$(code /metrics -H 'Authorization: Bearer guess.guess')" = 401 ] || fail "a guess"

note "a program's session"
viewer=$(token --session --role viewer --name ada)
[ "$(code /metrics -H "Authorization: Bearer $viewer")" = 200 ] || fail "a session is refused: $(cat "$DIR/body")"
grep -q '^distill_build_info' "$DIR/body" || fail "no metrics"

note "a browser's session"
[ "$(code "/login?token=guess.guess")" = 401 ] || fail "a guess logs in"
[ "$(code "/login?token=$viewer" -c "$DIR/cookies")" = 303 ] || fail "no login: $(cat "$DIR/body")"
grep -q '#HttpOnly_localhost.*TRUE.*distill_session' "$DIR/cookies" || fail "the cookie: $(cat "$DIR/cookies")"
[ "$(code /api/v1/jobs -b "$DIR/cookies")" = 200 ] || fail "the cookie is refused"

note "who looked and who was refused is in the audit"
distill audit -n 1000 >"$DIR/audit"
for what in '/metrics +EAUTH' '/api/v1/stream +EAUTH' '/login +EAUTH' 'ada +.*HTTP/Login +/login +OK'; do
    grep -qE "$what" "$DIR/audit" || { cat "$DIR/audit"; fail "the audit does not say: $what"; }
done
if grep -F "${viewer##*.}" "$DIR/audit"; then fail "a secret is in the audit"; fi

note "one guess after another"
refused=$(curl -s --max-time 20 --cacert "$DIR/state/tls/ca.pem" -H 'Authorization: Bearer guess.guess' -o /dev/null \
    -w '%{http_code}\n' "https://localhost:$HTTP/metrics?i=[1-200]" | grep -c '^429$') || true
[ "$refused" -gt 0 ] || fail "200 guesses in a row are all looked at"
[ "$(code /metrics -H "Authorization: Bearer $viewer")" = 200 ] || fail "who has a session waits for who guesses"

note "a live stream ends with its session"
http /api/v1/stream -N -H "Authorization: Bearer $viewer" >"$DIR/stream" &
PIDS[reader]=$!

note "revoked"
sleep 1.1 # for those guesses to be forgotten
id=$(distill token ls -o json | pick '[t["id"] for t in d["tokens"] if t["session"]][0]')
distill token revoke "$id" >"$DIR/body" || fail "no revocation: $(cat "$DIR/body")"
wait "${PIDS[reader]}" || fail "the stream goes on: $(cat "$DIR/stream")"
unset 'PIDS[reader]'
grep -q '^event: jobs' "$DIR/stream" || fail "nothing was streamed"
[ "$(code /metrics -H "Authorization: Bearer $viewer")" = 401 ] || fail "a revoked session is let in"
[ "$(code /api/v1/jobs -b "$DIR/cookies")" = 401 ] || fail "a revoked cookie is let in"

note "a submitter's session is good for a year, sees his own jobs and nobody else's"
login sue submitter
login tom submitter
small_job >"$DIR/job.yaml"
hers=$(as sue distill submit "$DIR/job.yaml" -q)
his=$(as tom distill submit "$DIR/job.yaml" -q)
expect 2 'a session lives from a second to 366 days' distill token create --session --role submitter --name sue --ttl 367d
expect 2 'a token lives from a second to 30 days' distill token create --role submitter --name sue --ttl 31d
expect 2 'a session reads jobs' distill token create --session --role worker --name sue
sue=(-H "Authorization: Bearer $(token --session --role submitter --name sue --ttl 366d)")
vera=(-H "Authorization: Bearer $(token --session --role viewer --name vera)")
for path in / /app.js /api/v1/info /api/v1/workers /api/v1/jobs "/api/v1/jobs/$hers" "/api/v1/jobs/$hers/events"; do
    [ "$(code "$path" "${sue[@]}")" = 200 ] || fail "$path: $(cat "$DIR/body")"
done
for path in /metrics "/api/v1/jobs/$his" "/api/v1/jobs/${his:0:6}" "/api/v1/jobs/$his/"{events,steps,evaluation,stream}; do
    [ "$(code "$path" "${sue[@]}")" = 403 ] || fail "$path is open to sue"
    [[ $(code "$path" --max-time 3 "${vera[@]}") =~ ^(200|400|404)$ ]] || fail "$path is closed to vera"
done
ids() { pick '" ".join(sorted(j["job"] for j in d["jobs"]))'; }
both=$(printf '%s\n' "$hers" "$his" | sort | xargs)
[ "$(http /api/v1/jobs "${sue[@]}" | ids)" = "$hers" ] || fail "sue's list"
[ "$(http /api/v1/jobs "${vera[@]}" | ids)" = "$both" ] || fail "vera's list"
http /api/v1/stream -N --max-time 300 "${sue[@]}" >"$DIR/sue" 2>/dev/null &
PIDS[sue]=$!
http /api/v1/stream -N --max-time 300 "${vera[@]}" >"$DIR/vera" 2>/dev/null &
PIDS[vera]=$!
await 10 grep -q '^event: workers' "$DIR/sue"
await 10 grep -q '^event: workers' "$DIR/vera"
live() { sed -n '/^event: jobs/{n; s/^data: //; p; q}' "$DIR/$1" | ids; }
[ "$(live sue)" = "$hers" ] || fail "sue's live list: $(cat "$DIR/sue")"
[ "$(live vera)" = "$both" ] || fail "vera's live list: $(cat "$DIR/vera")"
[ "$(code /metrics -I "${sue[@]}")" = 403 ] || fail "HEAD /metrics is open to sue"
distill audit -n 1000 >"$DIR/audit"
for method in Get Head; do
    grep -qE "sue +submitter .*HTTP/$method +/metrics +EPERM" "$DIR/audit" || fail "sue's refusals are not in the audit"
done
expect 0 '0 of its calls and 1 of its sessions ended' distill revoke sue
wait "${PIDS[sue]}" || fail "sue's stream goes on"
[ "$(code /api/v1/jobs "${sue[@]}")" = 401 ] || fail "sue was revoked, and her session is good"
unset 'PIDS[sue]'

note "a new certificate"
before=$(echo | openssl s_client -connect "127.0.0.1:$HTTP" 2>/dev/null | openssl x509 -noout -serial 2>/dev/null)
"$BUILD/distilld" init --state-dir "$DIR/state" --host renewed.example >"$DIR/init"
kill -HUP "${PIDS[distilld]}"
for _ in $(seq 100); do
    after=$(echo | openssl s_client -connect "127.0.0.1:$HTTP" 2>/dev/null | openssl x509 -noout -serial 2>/dev/null || true)
    [ -z "$after" ] || [ "$after" = "$before" ] || break
    sleep 0.1
done
[ -n "$after" ] && [ "$after" != "$before" ] || fail "the old certificate is shown: $before"
[ "$(http /healthz)" = ok ] || fail "no health with the new certificate"
