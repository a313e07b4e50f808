#!/usr/bin/env bash
# Messages that are too large or make no sense, and paths that lead out, from callers with a certificate: each is refused
# with its status, and the coordinator serves others.
. tests/security/secure.sh
needs_grpc
small_data
small_job >"$DIR/job.yaml"
secure_coordinator
for who in 'alice submitter' 'bob submitter' 'root admin' 'node worker'; do
    # shellcheck disable=SC2086
    login $who
done
ca=$DIR/state/tls/ca.pem
probe() { # LOGIN METHOD...
    local who=$1; shift
    /usr/bin/python3 tests/security/probe.py "$ca" "$DISTILL_SERVER" "$DIR/logins/$who/identity.pem" "$@"
}

note "oversize messages"
/usr/bin/python3 - "$ca" "$DISTILL_SERVER" "$DIR/logins/alice/identity.pem" "$DIR/logins/node/identity.pem" <<'PY' || fail "oversize messages"
import sys
import grpc
ca, server, alice, node = sys.argv[1:]
read = lambda p: open(p, "rb").read()
def refused(login, method, size, codes):
    creds = grpc.ssl_channel_credentials(read(ca), read(login), read(login))
    with grpc.secure_channel(server, creds, [("grpc.max_send_message_length", -1)]) as ch:
        try:
            ch.unary_unary("/distill.v1." + method)(b"\x0a" + b"x" * size, timeout=60)
        except grpc.RpcError as e:
            assert e.code() in codes, (method, size, e.code(), e.details())
            return
    sys.exit(f"{method}: {size} bytes were taken")
full = (grpc.StatusCode.RESOURCE_EXHAUSTED,)
refused(alice, "Jobs/Get", (1 << 20) + 1, full)        # a control message has at most 1 MiB
refused(alice, "Jobs/Submit", 6 << 20, full)           # any has at most 5 MiB
refused(alice, "Access/Renew", 70000, full)
refused(node, "Exchange/PushNode", 64 << 20, full)
PY

note "bytes that are no message, for every method"
for pair in 'alice Jobs' 'root Access' 'root Storage' 'node Exchange'; do
    read -r who service <<<"$pair"
    calls=()
    for m in $(sed -n "/^service $service /,/^}/p" proto/distill.proto | awk '/^  rpc/ {sub(/\(.*/, "", $2); print $2}'); do
        [ "$m" != Watch ] || continue
        for body in ff 0a05 0affffffff0f 0a80808080808080808001 7affffff7f0afe; do calls+=("$service/$m=$body"); done
    done
    probe "$who" "${calls[@]}" >"$DIR/out"
    [ "$(wc -l <"$DIR/out")" -eq ${#calls[@]} ] || fail "not all of $service was called"
    ! grep -vE ' (DATA_LOSS|INVALID_ARGUMENT|PERMISSION_DENIED) ' "$DIR/out" || fail "bytes that are no message were taken"
done
expect 0 '' distill whoami

note "paths and names that lead out, in every field that has one"
secret=$DIR/state/distilld.db
# calls METHOD JSON STATUS WHO
calls() {
    local rc=0
    DISTILL_CREDENTIALS=$DIR/logins/$4 call "$1" "$2" >"$DIR/out" 2>&1 || rc=$?
    [ $rc -ne 0 ] && grep -qE "^($3):" "$DIR/out" || { cat "$DIR/out"; fail "$1 $2: $3 was expected"; }
}
secure_worker w1
await_workers 1
job=$(as alice distill submit "$DIR/job.yaml" --wait -q)
for bad in ../../distilld.db "$secret" .. /etc/passwd '' 'x/../../../distilld.db'; do
    calls Fetch "{\"job\": \"$job\", \"name\": \"$bad\"}" 'NOT_FOUND|INVALID_ARGUMENT' alice
    calls Upload "{\"digest\": \"$bad\", \"size\": 1}" INVALID_ARGUMENT alice
    calls Exchange/GetBlob "{\"job\": \"$job\", \"digest\": \"$bad\"}" INVALID_ARGUMENT node
    calls Exchange/PutArtefact "{\"job\": \"$job\", \"name\": \"$bad\", \"size\": 1, \"digest\": \"00000000000000000000000000000000\"}" \
        'INVALID_ARGUMENT|FAILED_PRECONDITION|ABORTED' node
    calls Get "{\"job\": \"$bad\"}" NOT_FOUND alice
    calls Submit "{\"key\": \"k\", \"continue_job\": \"$bad\", \"continue_epochs\": 1}" 'NOT_FOUND|INVALID_ARGUMENT' alice
    calls Access/CreateToken "{\"role\": \"viewer\", \"name\": \"x$bad/\", \"ttl_ms\": 60000}" INVALID_ARGUMENT root
    calls Access/Revoke "{\"who\": \"$bad\"}" NOT_FOUND root
    calls Storage/VerifyBank "{\"bank\": \"$bad\"}" NOT_FOUND root
    calls Storage/RemoveBank "{\"bank\": \"$bad\"}" NOT_FOUND root
    calls Storage/SetRetention "{\"name\": \"$bad\", \"value\": \"1s\"}" INVALID_ARGUMENT root
    calls Storage/FetchCheckpoint "{\"job\": \"$job\", \"stage\": \"$bad\", \"step\": 12}" NOT_FOUND alice
done
calls Access/Enroll '{"token": "x", "csr": "x", "holder": 7}' 'INVALID_ARGUMENT|DATA_LOSS' alice
wide=$(printf '\303\266%.0s' $(seq 31))
calls Access/Revoke "{\"who\": \"x$wide\"}" NOT_FOUND root
expect 0 'Access/Revoke' distill audit
for path in ../flowers /etc flowers/../../x; do
    expect 78 'labelled.path' as alice distill submit "$DIR/job.yaml" --set "data.labelled.path=$path"
    expect 78 'labelled.train' as alice distill submit "$DIR/job.yaml" --set "data.labelled.train=$path"
done
# `distill` has looked at these itself; the coordinator does at all of them.
before=$(as alice distill jobs -a -q)
mapfile -t keys < <(distill help job | awk '/\[relative path\]/ {print $1}')
[ ${#keys[@]} -ge 10 ] || fail "only ${#keys[@]} keys take a path: ${keys[*]}"
as alice distill submit "$DIR/job.yaml" --dry-run -o json | pick 'json.dumps(d["resolved"])' >"$DIR/resolved.json"
as alice /usr/bin/python3 tests/security/hostile_paths.py "$DIR/resolved.json" "$job" "${keys[@]}" || fail "a path that leads out"
[ "$(as alice distill jobs -a -q)" = "$before" ] || fail "a job was made"
expect 0 'alice (submitter)' as alice distill whoami
ln -s /etc "$DIR/data/etc"
bad=$(as alice distill submit "$DIR/job.yaml" --set data.labelled.path=etc -q)
await_event "$bad" NO_DATA
as alice distill cancel "$bad" >/dev/null
mkdir -p "$DIR/data/listed"
cp -r "$DIR/data/flowers/." "$DIR/data/listed"
sed -i '1s,^,../../../../etc/passwd\t0\n,' "$DIR/data/listed/train.txt"
bad=$(as alice distill submit "$DIR/job.yaml" --set data.labelled.path=listed -q)
await_event "$bad" '`..`'
as alice distill cancel "$bad" >/dev/null

note "and a job of somebody else goes on as if nothing had been"
as bob distill submit "$DIR/job.yaml" --wait -q >/dev/null
stop w1
stop distilld

note "quotas: jobs and uploads of one name, not of another"
COORDINATOR_FLAGS=(--quota-jobs 1 --quota-upload 4K)
coordinator
as alice distill submit "$DIR/job.yaml" -q >/dev/null
expect 75 'quota_jobs' as alice distill submit "$DIR/job.yaml"
as bob distill submit "$DIR/job.yaml" -q >/dev/null
head -c 9000 /dev/zero >"$DIR/weights.safetensors"
expect 75 'quota_upload' as root distill submit "$DIR/job.yaml" --set "teacher.weights=$DIR/weights.safetensors"
stop distilld
