#!/usr/bin/env bash
# Bad input gets a clear error and the right exit code; nothing hangs, nothing is lost.
. tests/integration/cluster.sh

small_data
small_job >"$DIR/job.yaml"
export DISTILL_SERVER=127.0.0.1:1
expect 69 'cannot reach coordinator' distill jobs
DISTILL_SERVER=
coordinator

note "job files"
sed 's/size: 32/sizee: 32/' "$DIR/job.yaml" >"$DIR/unknown.yaml"
expect 78 'unknown.yaml:4:' distill submit "$DIR/unknown.yaml"
expect 78 'size' distill submit "$DIR/unknown.yaml"
expect 78 'distill.batch' distill submit "$DIR/job.yaml" --set distill.batch=0
expect 78 'slots' distill submit "$DIR/job.yaml" --set distill.slots=3
expect 78 'distill.epochs' distill submit "$DIR/job.yaml" --set distill.epochs=many
expect 2 'no-such-flag' distill submit "$DIR/job.yaml" --no-such-flag
expect 2 'submit' distill submti
expect 3 'no job' distill show 0123456789ab
rc=0; distill submit "$DIR/missing.yaml" >"$DIR/out" 2>&1 || rc=$?
[ $rc -ne 0 ] || fail "a missing job file was accepted"

note "a worker of another protocol version is refused, and told why"
if /usr/bin/python3 -c 'import grpc' 2>/dev/null; then
    /usr/bin/python3 - "$DISTILL_SERVER" <<'PY' || fail "protocol version"
import sys
import grpc
hello = bytes([0x08, 99, 0x1a, 1]) + b"x" + bytes([0x28, 1])  # protocol 99, name x, one thread
message = bytes([0x0a, len(hello)]) + hello                   # WorkerMessage.hello
call = grpc.insecure_channel(sys.argv[1]).stream_stream("/distill.v1.Cluster/Control")(iter([message]))
try:
    list(call)
    sys.exit("it was taken")
except grpc.RpcError as e:
    assert e.code() == grpc.StatusCode.FAILED_PRECONDITION, e
    assert "protocol 99" in e.details(), e.details()
PY
fi

note "a worker without the data, and one with other data"
mkdir "$DIR/empty" "$DIR/other"
worker nodata 1 "$DIR/empty"
await_workers 1
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 -q)
await_event "$job" NO_DATA
expect 0 'NO_DATA' distill jobs -o json
expect 0 "job $job (small) runs without a worker: no worker can serve it: NO_DATA" distill cluster status
cp -r "$DIR/data/flowers" "$DIR/other/flowers"
f=$(head -n 1 "$DIR/other/flowers/train.txt" | cut -f 1)
printf 'x' >>"$DIR/other/flowers/$f"
worker good
await_steps "$job" teacher 1
worker other 1 "$DIR/other"
await_event "$job" 'worker refused: its data'

note "cancel, rm, and the exit code of wait"
distill cancel "$job"
expect 8 '' distill wait "$job" --timeout 1m
expect 5 'over already' distill cancel "$job"
distill rm "$job"
expect 3 'no job' distill show "$job"
stop other
stop nodata

note "Ctrl-C in watch: the job goes on, and it says how to watch again"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=40 -q)
await_steps "$job" teacher 1
python3 - "$BUILD/distill" "$job" <<'PY' || fail "Ctrl-C in watch"
import signal, subprocess, sys
p = subprocess.Popen([sys.argv[1], "watch", sys.argv[2]], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
p.stdout.readline()
p.send_signal(signal.SIGINT)
err = p.communicate(timeout=60)[1].decode()
assert p.returncode == 130, p.returncode
assert "distill watch " + sys.argv[2] in err, err
PY
expect 0 '"running"' distill jobs -o json
distill cancel "$job"

note "a teacher of other classes"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$job" --timeout 10m
distill fetch "$job" -O "$DIR" teacher.safetensors
python3 - "$DIR/job.yaml" "$DIR/loaded.yaml" <<'PY'
import sys
lines = open(sys.argv[1]).read().splitlines()
lines = ["  weights: teacher.safetensors" if "fine_tune" in l else l for l in lines]
open(sys.argv[2], "w").write("\n".join(lines) + "\n")
PY
job=$(distill submit "$DIR/loaded.yaml" --set distill.epochs=1 -q)
distill wait "$job" --timeout 10m
[ "$(stage_field "$job" teacher steps)" -eq 0 ] || fail "a loaded teacher was trained"
cp "$DIR/data/flowers/classes.txt" "$DIR/classes.txt"
sort -r "$DIR/classes.txt" >"$DIR/data/flowers/classes.txt"
job=$(distill submit "$DIR/loaded.yaml" -q)
expect 7 'the teacher knows the classes daisy' distill wait "$job" --timeout 10m
cp "$DIR/classes.txt" "$DIR/data/flowers/classes.txt"

note "pictures that cannot be read"
head -c 100 "$DIR/data/flowers/$f" >"$DIR/torn" && cp "$DIR/torn" "$DIR/data/flowers/$f"
job=$(distill submit "$DIR/job.yaml" --set data.labelled.max_bad_images=0.5 --set teacher.fine_tune.epochs=1 -q)
distill wait "$job" --timeout 10m
has_event "$job" "$f" || fail "the bad picture is not named"
job=$(distill submit "$DIR/job.yaml" -q)
expect 7 'BAD_IMAGES' distill wait "$job" --timeout 10m

note "a result on a full disk, and a client without a server"
if mkdir "$DIR/full" && mount -t tmpfs -o size=64k tmpfs "$DIR/full" 2>/dev/null; then
    job=$(distill jobs -o json | python3 -c '
import json, sys
print([j["job"] for j in json.load(sys.stdin)["jobs"] if j["state"] == "succeeded"][0])')
    rc=0; distill fetch "$job" -O "$DIR/full" >"$DIR/out" 2>&1 || rc=$?
    umount "$DIR/full"
    [ $rc -eq 1 ] || fail "fetch onto a full disk: exit code $rc"
    grep -qi 'space' "$DIR/out" || fail "fetch onto a full disk does not say so"
fi
