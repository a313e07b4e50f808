#!/usr/bin/env bash
# From `distilld init` to a login: certificates, tokens that are good once, key files, names, plain text.
. tests/security/secure.sh

note "plain text is for this machine"
expect 1 'distilld init' "$BUILD/distilld" --state-dir "$DIR/plain" --listen 0.0.0.0:0
expect 1 '--insecure' "$BUILD/distilld" --state-dir "$DIR/plain" --listen 0.0.0.0:0
expect 4 'no certificate for 192.0.2.1:7070' distill jobs --server 192.0.2.1
expect 78 'no certificate for 192.0.2.1:7070' "$BUILD/distill-worker" --server 192.0.2.1:7070 --data-root "$DIR"
"$BUILD/distilld" --state-dir "$DIR/plain" --listen 0.0.0.0:0 --insecure --port-file "$DIR/plain-port" "${HTTP_FLAGS[@]}" >"$DIR/plain.log" 2>&1 &
PIDS[plain]=$!
await_port plain "$DIR/plain-port"
expect 0 'anybody' distill whoami --server "127.0.0.1:$(cat "$DIR/plain-port")"
expect 5 'runs without certificates' distill token create --role viewer --server "127.0.0.1:$(cat "$DIR/plain-port")"
url=http://127.0.0.1:$(cat "$DIR/http-port")/metrics
[ "$(curl -s -o /dev/null -w '%{http_code}' "$url")" = 200 ] || fail "HTTP does not answer this machine"
[ "$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: rebound.example' "$url")" = 403 ] || fail "--insecure opened HTTP on loopback"
stop plain
says 'whoever reaches it may do everything' <"$DIR/plain.log" || fail "no warning about plain text"
if says 'may read' <"$DIR/plain.log"; then fail "HTTP on loopback is open to all"; fi

note "init: certificates, an admin, a configuration file that distilld reads"
secure_coordinator
[ "$(stat -c %a "$DIR/state/tls/ca.key" "$DIR/state/tls/server.key" "$DIR/state/tls/admin/identity.pem" | sort -u)" = 600 ] ||
    fail "a key can be read by others"
openssl verify -CAfile "$DIR/state/tls/ca.pem" -purpose sslserver "$DIR/state/tls/server.pem" >/dev/null ||
    fail "openssl does not believe the server's certificate"
openssl x509 -in "$DIR/state/tls/admin/identity.pem" -noout -ext subjectAltName | says 'URI:distilld://admin/admin' ||
    fail "the admin's certificate names somebody else"
expect 0 'admin (admin) at' distill whoami
stop distilld
cat >"$DIR/conf.yaml" <<YAML
state_dir: $DIR/state
listen: $DISTILL_SERVER
lease_ms: 3000
YAML
"$BUILD/distilld" --config "$DIR/conf.yaml" --lease-ms 4000 --port-file "$DIR/port2" >>"$DIR/distilld.log" 2>&1 &
PIDS[distilld]=$!
for _ in $(seq 100); do [ ! -s "$DIR/port2" ] || break; sleep 0.1; done
expect 0 'admin (admin) at' distill whoami
expect 2 'conf2.yaml:2: unknown key "lisen"' bash -c "printf 'lease_ms: 9000\nlisen: x\n' >$DIR/conf2.yaml; '$BUILD/distilld' --config $DIR/conf2.yaml"
expect 2 'conf2.yaml:1: lease_ms: wants a whole number' bash -c "echo 'lease_ms: soon' >$DIR/conf2.yaml; '$BUILD/distilld' --config $DIR/conf2.yaml"
"$BUILD/distilld" --config "$DIR/state/distilld.yaml" --help >/dev/null || fail "the file that init wrote is not read"

note "a token is good once, for who it says, and for this coordinator"
t=$(token --role viewer)
expect 0 'you are vera (viewer)' as vera distill login "$t" --name vera
expect 4 'used already, by vera' as mallory distill login "$t" --name mallory
t=$(token --role viewer)
expect 5 "the name vera has been somebody's" as mallory distill login "$t" --name vera
expect 5 "the name admin has been somebody's" as mallory distill login "$t" --name admin
expect 0 'you are victor' as victor distill login "$t" --name victor
t=$(token --role viewer --name wanda)
expect 4 'the token is for wanda' as mallory distill login "$t" --name mallory
expect 4 'another CA' as mallory distill login "distill1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.${t##*.}"
expect 0 'you are wanda' as wanda distill login "$t" # nobody has got that secret: the token is still good
expect 2 'this is a token that is not whole; a one-time token is expected' as mallory distill login distill1.x.y
t=$(token --role viewer --ttl 1s)
sleep 1.2
expect 4 'is over' as mallory distill login "$t" --name mallory
id=$(distill token create --role viewer -o json | tee "$DIR/token.json" | pick 'd["id"]')
expect 2 'this is the id of a token; a one-time token is expected' as mallory distill login "$id"
expect 0 'is revoked' distill token revoke "$id"
expect 4 'was revoked' as mallory distill login "$(pick 'd["token"]' <"$DIR/token.json")" --name mallory
expect 0 'revoked' distill token ls
[ ! -e "$DIR/logins/mallory/identity.pem" ] || fail "mallory got in"

note "a token of another kind is refused and stays good"
t=$(token --role worker --name w1)
expect 2 'for a worker, not for a person: `distill-worker join TOKEN`' as vera distill login "$t"
expect 0 'vera (viewer)' as vera distill whoami
expect 0 'w1 may work for' "$BUILD/distill-worker" join "$t" --credentials "$DIR/logins/w1"
t=$(token --role viewer --name vincent)
expect 2 'for a viewer, not for a worker: `distill login TOKEN`' "$BUILD/distill-worker" join "$t" --credentials "$DIR/logins/w2"
[ ! -e "$DIR/logins/w2/identity.pem" ] || fail "a viewer's certificate lies where a worker's is looked for"
session=$(token --session --role viewer --name screen)
expect 2 'of screen, for the HTTP port; no certificate is made of it: `distill login` takes a one-time token' as screen distill login "$session"
expect 2 'makes by `distill token create --role worker`' "$BUILD/distill-worker" join "$session" --credentials "$DIR/logins/w2"

note "a login that is there is not lost to another one unasked"
expect 4 'has the login of vera (viewer)' as vera distill login "$t"
expect 5 'has the login of vera (viewer)' as vera distill login "$t" --name vincent
expect 78 'has the login of w1 (worker)' "$BUILD/distill-worker" join "$(token --role worker)" --name w3 --credentials "$DIR/logins/w1"
expect 0 'vera (viewer)' as vera distill whoami
expect 0 'you are vincent' as vincent distill login "$t"
expect 0 'you are vera (operator)' as vera distill login "$(token --role operator --name vera)"
expect 0 'you are vera (viewer)' as vera distill login "$(token --role viewer --name vera)"
person() { env -u DISTILL_CREDENTIALS -u DISTILL_SERVER "$BUILD/distill" "$@"; } # with a home of his own
first=$DISTILL_SERVER
PIDS[first]=${PIDS[distilld]}
expect 0 'you are pat' person login "$(token --role viewer --name pat)" --server "$first"
DISTILL_SERVER=
"$BUILD/distilld" init --state-dir "$DIR/second" --listen 127.0.0.1:0 >"$DIR/init2"
coordinator "$DIR/second"
second=$DISTILL_SERVER
t=$(DISTILL_CREDENTIALS=$DIR/second/tls/admin token --role viewer --name pat)
expect 5 "has the login of pat (viewer) at $first, which would be lost; keep both with --context NAME" person login "$t" --server "$second"
expect 0 "pat (viewer) at $first" person whoami
expect 0 "you are pat (viewer) at $second" person login "$t" --server "$second" --context second
expect 0 "pat (viewer) at $first" person whoami --context default
expect 0 "pat (viewer) at $second" person whoami
t=$(DISTILL_CREDENTIALS=$DIR/second/tls/admin token --role viewer --name quinn)
expect 0 "you are quinn (viewer) at $second" person login "$t" --server "$second" --context default --replace
stop distilld
PIDS[distilld]=${PIDS[first]}
unset 'PIDS[first]'
export DISTILL_SERVER=$first

note "a key that others may read is not used"
chmod 640 "$DIR/logins/vera/identity.pem"
expect 4 'chmod 600' as vera distill jobs
chmod 600 "$DIR/logins/vera/identity.pem"
expect 0 '' as vera distill jobs
chmod 644 "$DIR/state/tls/ca.key"
stop distilld
expect 1 'chmod 600' "$BUILD/distilld" --state-dir "$DIR/state" --listen 127.0.0.1:0
chmod 600 "$DIR/state/tls/ca.key"

note "names are added to the server's certificate, and taken without a restart"
port=${DISTILL_SERVER##*:}
DISTILL_SERVER=0.0.0.0:$port coordinator
expect 69 'does not name this host' as vera distill jobs --server "127.0.0.9:$port"
"$BUILD/distilld" init --state-dir "$DIR/state" --host 127.0.0.9 >/dev/null
kill -HUP "${PIDS[distilld]}"
for _ in $(seq 50); do ! says 'another certificate' <"$DIR/distilld.log" || break; sleep 0.1; done
expect 0 '' as vera distill jobs --server "127.0.0.1:$port"

note "a person's certificate is renewed by using it, and over when nobody does"
stop distilld
COORDINATOR_FLAGS=(--certificate-life 21s)
coordinator
login dora viewer
login dave viewer
serial() { openssl x509 -in "$DIR/logins/$1/identity.pem" -noout -serial; }
first=$(serial dora)
for _ in $(seq 60); do
    expect 0 'dora (viewer)' as dora distill whoami
    [ "$(serial dora)" = "$first" ] || break
    sleep 0.5
done
[ "$(serial dora)" != "$first" ] || fail "dora's certificate was not renewed"
for _ in $(seq 60); do
    openssl x509 -in "$DIR/logins/dave/identity.pem" -noout -checkend 0 >/dev/null || break
    expect 0 'dora (viewer)' as dora distill whoami
    sleep 0.5
done
expect 4 'the certificate of dave is over' as dave distill whoami

note "the admin's is renewed by the coordinator, whoever uses it"
stop distilld
admin=$DIR/state/tls/admin/identity.pem
admin_serial() { openssl x509 -in "$admin" -noout -serial; }
await_other_admin() { # SERIAL
    for _ in $(seq 100); do [ "$(admin_serial)" = "$1" ] || return 0; sleep 0.2; done
    fail "the admin's certificate was not renewed"
}
await_over() {
    for _ in $(seq 100); do openssl x509 -in "$admin" -noout -checkend 0 >/dev/null || return 0; sleep 0.2; done
    fail "the admin's certificate does not end"
}
cat >"$DIR/short.yaml" <<<'certificate_life: 9s'
rm -r "$DIR/state/tls/admin"
"$BUILD/distilld" init --state-dir "$DIR/state" --listen "$DISTILL_SERVER" --config "$DIR/short.yaml" >/dev/null
serial=$(admin_serial)
await_over # init went by the file's certificate_life
expect 4 "renews STATE/tls/admin" distill whoami
COORDINATOR_FLAGS=(--certificate-life 9s)
coordinator
[ "$(admin_serial)" != "$serial" ] || fail "the admin's certificate was over before the start, and still is"
expect 0 'admin (admin)' distill whoami
serial=$(admin_serial)
await_other_admin "$serial"
stop distilld
await_over
expect 0 'admin, which was over' "$BUILD/distilld" init --state-dir "$DIR/state" --config "$DIR/conf.yaml"
COORDINATOR_FLAGS=()
coordinator
expect 0 'admin (admin)' distill whoami
login anna admin
expect 0 'revoked' as anna distill revoke admin
expect 4 'was revoked' distill whoami
kill -HUP "${PIDS[distilld]}"
sleep 1.5
expect 4 'was revoked' distill whoami
expect 0 'admin, which was revoked' "$BUILD/distilld" init --state-dir "$DIR/state"
kill -HUP "${PIDS[distilld]}"
expect 0 'admin (admin)' distill whoami
serial=$(admin_serial | cut -d= -f2 | tr A-F a-f)
for _ in $(seq 50); do ! distill certificates -o json | says "$serial" || break; sleep 0.1; done
distill certificates -o json | says "$serial" || fail "the admin's new certificate is not listed"

note "without a certificate only health and enrolment are answered"
needs_grpc
issuer() { openssl x509 -in "$1/identity.pem" -noout -issuer; }
probe() { /usr/bin/python3 tests/security/probe.py "$DIR/state/tls/ca.pem" "$DISTILL_SERVER" "$@"; }
expect 0 'grpc.health.v1.Health/Check OK' probe none grpc.health.v1.Health/Check
expect 0 'Access/WhoAmI OK' probe none Access/WhoAmI
expect 0 'Access/Enroll UNAUTHENTICATED this coordinator knows no such token' probe none Access/Enroll
methods=()
for m in $(sed -n '/^service/,/^}/p' proto/distill.proto | awk '/^service/ {s = $2} /^  rpc/ {sub(/\(.*/, "", $2); print s "/" $2}'); do
    case $m in Access/WhoAmI | Access/Enroll | Cluster/Control | Jobs/Watch) continue ;; esac
    methods+=("$m")
done
probe none "${methods[@]}" >"$DIR/refused"
[ "$(grep -c ' UNAUTHENTICATED this coordinator wants a certificate' "$DIR/refused")" -eq ${#methods[@]} ] ||
    { cat "$DIR/refused"; fail "not all wants a certificate"; }

note "nobody is let in by a certificate that is over, or of another CA of the same name; people are served meanwhile"
"$BUILD/distilld" init --state-dir "$DIR/foreign" --listen 127.0.0.1:0 >"$DIR/init3"
[ "$(issuer "$DIR/foreign/tls/admin")" = "$(issuer "$DIR/state/tls/admin")" ] || fail "the two CAs have other names"
for login in "$DIR/logins/dave" "$DIR/foreign/tls/admin"; do
    probe "$login/identity.pem" "${methods[@]}" Access/WhoAmI Access/Enroll >"$DIR/refused" &
    PIDS[probe]=$!
    for _ in 1 2 3; do expect 0 'admin (admin) at' distill whoami; done
    wait "${PIDS[probe]}" || fail "no probe"
    unset 'PIDS[probe]'
    [ "$(grep -c ' UNAVAILABLE ' "$DIR/refused")" -eq $((${#methods[@]} + 2)) ] || { cat "$DIR/refused"; fail "$login: not all is refused"; }
done
stop distilld
