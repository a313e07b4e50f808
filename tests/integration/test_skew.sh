#!/usr/bin/env bash
# Programs of different versions: what is refused says so and leaves in order, what may mix works. The others
# are real daemons of another protocol (tests/CMakeLists.txt).
. tests/integration/cluster.sh
needs_grpc
[ -x "$BUILD/tests/kd_skewed_worker" ] || { echo "no kd_skewed_worker was built"; exit 77; }

small_cluster a

note "a worker of another protocol beside one of ours"
expect 78 "this coordinator speaks protocol 3" "$BUILD/tests/kd_skewed_worker" --name other --data-root "$DIR/data"
expect 78 "the worker protocol 99" "$BUILD/tests/kd_skewed_worker" --name other --data-root "$DIR/data"
expect 0 "protocol 3" distill version --check-server
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$job" --timeout 5m >/dev/null || fail "it harmed the job"

note "a client that knows more, and one that asks for what is not there"
/usr/bin/python3 - "$DISTILL_SERVER" <<'PY' || fail "unknown fields or methods"
import sys, grpc
with grpc.insecure_channel(sys.argv[1], [("grpc.enable_http_proxy", 0)]) as c:
    # limit = 1, then a field 1000 of bytes and a field 1001 of a number, which no version has had.
    known = c.unary_unary("/distill.v1.Jobs/List")(b"\x08\x01" + b"\xc2\x3e\x03abc" + b"\xc8\x3e\x05", timeout=20)
    assert known[0] == 0x0A, known
    try:
        c.unary_unary("/distill.v1.Jobs/OfTheNextVersion")(b"", timeout=20)
        raise SystemExit("an unknown method was answered")
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNIMPLEMENTED, e
PY

note "a coordinator of another protocol: workers are refused, people are not"
stop a
stop distilld
distilld=$BUILD/distilld
BUILD=$DIR/other
mkdir "$BUILD"
ln -s "${distilld%/*}"/{distill,distill-worker} "$BUILD"
ln -s "${distilld%/*}/tests/kd_skewed_distilld" "$BUILD/distilld"
coordinator
expect 78 "speaks protocol 99" "$BUILD/distill-worker" --server "$DISTILL_SERVER" --name a --data-root "$DIR/data"
expect 5 "the coordinator speaks protocol 99, this program 3" distill version --check-server
distill jobs -q -a | says "$job" || fail "the other version does not know the job"
waits=$(distill submit "$DIR/job.yaml" -q)
distill cancel "$waits" >/dev/null
stop distilld

note "and back: its state is ours"
BUILD=${distilld%/*}
coordinator
worker a
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$job" --timeout 5m >/dev/null || fail "it does not go on"
