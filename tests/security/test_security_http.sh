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
reader=$!

note "revoked"
sleep 1.1 # for those guesses to be forgotten
id=$(distill token ls -o json | pick '[t["id"] for t in d["tokens"] if t["session"]][0]')
distill token revoke "$id" >"$DIR/body" || fail "no revocation: $(cat "$DIR/body")"
wait $reader || fail "the stream goes on: $(cat "$DIR/stream")"
grep -q '^event: jobs' "$DIR/stream" || fail "nothing was streamed"
rc=0
distill token create --session --role submitter --name sue >/dev/null 2>"$DIR/err" || rc=$?
[ $rc -ne 0 ] && grep -q "everybody's jobs" "$DIR/err" || fail "a submitter's session: $rc $(cat "$DIR/err")"
[ "$(code /metrics -H "Authorization: Bearer $viewer")" = 401 ] || fail "a revoked session is let in"
[ "$(code /api/v1/jobs -b "$DIR/cookies")" = 401 ] || fail "a revoked cookie is let in"

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
