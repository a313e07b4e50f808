#!/usr/bin/env bash
# A client in another language, with the .proto and OpenSSL alone: stubs from it, a certificate by a token,
# then submit, watch and fetch over TLS; and one that knows nothing but what reflection tells (docs/clients.md).
. tests/security/secure.sh
needs_grpc
plugin=$(command -v grpc_python_plugin) || { echo "no grpc_python_plugin here (protobuf-compiler-grpc)"; exit 77; }
python=/usr/bin/python3

small_data
small_job >"$DIR/job.yaml"
mkdir "$DIR/client"
protoc -I proto --python_out="$DIR/client" --grpc_python_out="$DIR/client" --plugin=protoc-gen-grpc_python="$plugin" distill.proto
cp docs/client.py "$DIR/client"

note "plain text on loopback"
coordinator
worker w
await_workers 1
(cd "$DIR/client" && SERVER=$DISTILL_SERVER "$python" client.py ../job.yaml) >"$DIR/plain" || { cat "$DIR/plain"; fail "plain text"; }
grep -q '^student.safetensors: [1-9]' "$DIR/plain" || fail "no student"
grep -q '^distill: step' "$DIR/plain" || fail "no progress was seen"
job=$(sed -n 's/^job //p' "$DIR/plain")
distill fetch "$job" -O "$DIR/own" >/dev/null
cmp "$DIR/own/student.safetensors" "$DIR/client/student.safetensors" || fail "other bytes than distill fetched"
stop w
stop distilld
unset DISTILL_SERVER

note "a certificate by token, OpenSSL and the stubs"
secure_coordinator
secure_worker w
await_workers 1
token=$(token --role submitter --name anna)
# distill1.DIGEST.SECRET: by DIGEST the CA is known before SECRET is told.
openssl s_client -connect "$DISTILL_SERVER" -alpn h2 -showcerts </dev/null 2>/dev/null |
    sed -n '/BEGIN CERT/,/END CERT/p' >"$DIR/client/chain.pem"
awk '/BEGIN CERT/{n++} n>1' "$DIR/client/chain.pem" >"$DIR/client/ca.pem"
digest=$(openssl x509 -in "$DIR/client/ca.pem" -noout -pubkey | openssl pkey -pubin -outform DER |
    openssl dgst -sha256 -binary | base64 | tr '+/' '-_' | tr -d '=')
[ "$(cut -d. -f2 <<<"$token")" = "$digest" ] || fail "the token names another CA than the server shows"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=anna -keyout "$DIR/client/key.pem" \
    -out "$DIR/client/csr.pem" 2>/dev/null
(cd "$DIR/client" && "$python" - "$DISTILL_SERVER" "$(cut -d. -f3 <<<"$token")") <<'PY' || fail "Enroll"
import sys
import grpc
import distill_pb2 as pb
import distill_pb2_grpc as rpc
ca = open("ca.pem", "rb").read()
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(ca)) as c:
    reply = rpc.AccessStub(c).Enroll(pb.EnrollRequest(token=sys.argv[2], csr=open("csr.pem").read()), timeout=20)
assert (reply.role, reply.name) == ("submitter", "anna"), reply
open("cert.pem", "w").write(reply.certificate)
PY
cd "$DIR/client"
export SERVER=$DISTILL_SERVER CA=ca.pem CERT=cert.pem KEY=key.pem
"$python" client.py ../job.yaml result.json >"$DIR/tls" || { cat "$DIR/tls"; fail "over TLS"; }
"$python" -c 'import json; assert json.load(open("result.json"))' || fail "result.json is none"
cd "$OLDPWD"
job=$(sed -n 's/^job //p' "$DIR/tls")
[ "$(distill show "$job" -o json | pick 'd["owner"]')" = anna ] || fail "not anna's job"

note "reflection, without the .proto"
mkdir "$DIR/login"
cp "$DIR/client/ca.pem" "$DIR/login"
cat "$DIR/client/cert.pem" "$DIR/client/key.pem" >"$DIR/login/identity.pem"
[ "$(DISTILL_CREDENTIALS=$DIR/login call List '{}' | pick 'd["jobs"][0]["job"]')" = "$job" ] || fail "List by reflection"
rc=0
DISTILL_CREDENTIALS=$DIR/login call Drain '{"worker": "w"}' 2>"$DIR/refused" || rc=$?
[ $rc -ne 0 ] && grep -q PERMISSION_DENIED "$DIR/refused" || fail "a submitter drained a worker"
