#!/usr/bin/env bash
# Who may do what in a running cluster: roles, jobs of others, revocation while streams run, renewal. The job's bits are
# those of a cluster without certificates.
. tests/security/secure.sh
needs_grpc
small_data
small_job >"$DIR/job.yaml"

note "without certificates"
coordinator "$DIR/open"
worker w0
plain=$(distill submit "$DIR/job.yaml" --wait -q)
want=$(digests "$plain")
stop w0
stop distilld
DISTILL_SERVER=

note "with them: the same bits, from a job of alice's"
secure_coordinator
for who in 'alice submitter' 'bob submitter' 'vera viewer' 'olga operator'; do
    # shellcheck disable=SC2086
    login $who
done
stop distilld
COORDINATOR_FLAGS=(--certificate-life 45s) # of the workers
coordinator
secure_worker w1
secure_worker w2
await_workers 2
job=$(as alice distill submit "$DIR/job.yaml" --set distill.epochs=2000 -q)
await_steps "$job" distill 2

note "a job is its submitter's"
expect 4 'belongs to alice' as bob distill show "$job"
expect 4 'belongs to alice' as bob distill cancel "$job"
expect 4 'belongs to alice' as bob distill pause "$job"
expect 4 'belongs to alice' as bob distill rm "$job"
expect 4 'belongs to alice' as bob distill fetch "$job" -O "$DIR/stolen"
expect 4 'belongs to alice' as bob distill watch "$job"
expect 4 'belongs to alice' as bob distill checkpoint ls "$job"
expect 4 'belongs to alice' as bob distill checkpoint get "$job"
expect 4 'may not call Storage/SetRetention' as alice distill retention set keep_logs=1s
expect 4 'may not call Storage/RemoveBank' as alice distill bank rm 0123
[ "$(as bob distill bank ls -o json | pick 'sum((b["jobs"] for b in d["banks"]), [])')" = '[]' ] || fail "bob sees jobs of alice's in banks"
expect 4 'belongs to alice' as bob distill scale "$job" --max 1
expect 4 'belongs to alice' as bob distill continue "$job" --epochs 1
expect 4 'belongs to alice' as bob distill replay "$job"
expect 4 'belongs to alice' as bob distill verify "$job"
expect 4 'belongs to alice' as bob distill retry "$job"
expect 4 'belongs to alice' as bob distill submit "$DIR/job.yaml" --set "student.weights=job:$job"
# `distill` asks for the job before; whoever does not is refused as well.
raw_submit() { # WHO JSON
    local rc=0
    as "$1" call Submit "$2" >"$DIR/out" 2>&1 || rc=$?
    [ $rc -eq 1 ] && grep -q '^PERMISSION_DENIED: .*the job belongs to alice' "$DIR/out" || { cat "$DIR/out"; fail "$1 may Submit $2"; }
}
raw_submit bob "{\"key\": \"a\", \"continue_job\": \"$job\", \"continue_epochs\": 1}"
raw_submit bob "{\"key\": \"b\", \"replay_job\": \"$job\"}"
raw_submit bob "{\"key\": \"c\", \"replay_job\": \"$job\", \"verify_stage\": \"distill\", \"verify_from\": 1, \"verify_to\": 2}"
for key in teacher student; do
    text=$(python3 -c 'import json, sys; print(json.dumps(open(sys.argv[1]).read()))' "$DIR/job.yaml")
    raw_submit bob "{\"key\": \"d\", \"text\": $text, \"set\": [\"$key.weights=job:$job\"]}"
    raw_submit bob "{\"key\": \"e\", \"text\": $text, \"set\": [\"$key.weights=job:$job/student.safetensors\"], \"dry_run\": true}"
done
[ "$(as bob distill jobs -q)" = "" ] || fail "bob sees jobs of others"
[ "$(as alice distill jobs -q)" = "$job" ] || fail "alice does not see her job"
expect 0 '"owner": "alice"' as vera distill show "$job" -o json
expect 4 'vera is a viewer and may not call Jobs/Cancel' as vera distill cancel "$job"
expect 4 'may not call Jobs/Submit' as vera distill submit "$DIR/job.yaml"
expect 4 'may not call Jobs/Drain' as alice distill drain w1
expect 4 'may not call Access/CreateToken' as olga distill token create --role admin
expect 4 'may not call Jobs/List' env DISTILL_CREDENTIALS="$DIR/logins/w1" "$BUILD/distill" jobs
expect 0 '' as olga distill pause "$job"
expect 0 '' as olga distill resume "$job"

note "a worker goes by its certificate's name"
DISTILL_WORKER_CREDENTIALS=$DIR/logins/w1 expect 78 'the certificate is that of w1' \
    "$BUILD/distill-worker" --server "$DISTILL_SERVER" --name w2 --data-root "$DIR/data"
DISTILL_WORKER_CREDENTIALS=$DIR/logins/vera expect 78 'may not call Cluster/Control' \
    "$BUILD/distill-worker" --server "$DISTILL_SERVER" --data-root "$DIR/data"

note "revoked: a stream that is watched and a worker that trains end at once, the job goes on"
as vera distill watch "$job" >"$DIR/watch.out" 2>&1 &
PIDS[watch]=$!
await_workers 2
sleep 0.5
expect 0 'revoked' distill revoke vera
rc=0; wait "${PIDS[watch]}" || rc=$?
unset 'PIDS[watch]'
[ $rc -eq 4 ] || { cat "$DIR/watch.out"; fail "watch ended with $rc after vera was revoked"; }
says 'was revoked' <"$DIR/watch.out" || fail "watch does not say why"
expect 4 'was revoked' as vera distill jobs
expect 0 'revoked' distill revoke w2
rc=0; wait "${PIDS[w2]}" || rc=$?
unset 'PIDS[w2]'
[ $rc -eq 78 ] || fail "w2 ended with $rc after it was revoked"
expect 78 'was revoked' env DISTILL_WORKER_CREDENTIALS="$DIR/logins/w2" "$BUILD/distill-worker" --server "$DISTILL_SERVER" --data-root "$DIR/data"

note "a worker's certificate is renewed in time; the job does not notice"
step=$(stage_field "$job" distill committed)
for _ in $(seq 300); do
    ! says 'the certificate was renewed: name=w1' <"$DIR/worker-w1.log" || break
    sleep 0.2
done
says 'the certificate was renewed: name=w1' <"$DIR/worker-w1.log" || fail "w1 did not renew its certificate"
sleep 20 # its first certificate is over by now: the stream that it began ends, and another begins
await_workers 1
await_steps "$job" distill $((step + 1))
expect 0 '' as alice distill cancel "$job"
small=$(as olga distill submit "$DIR/job.yaml" --wait -q)
[ "$(digests "$small")" = "$want" ] || fail "other bits with certificates: $(digests "$small"), not $want"

note "all of it is in the audit"
distill audit -n 1000 >"$DIR/audit"
for what in 'bob .*Jobs/Cancel .*EPERM' 'alice .*Jobs/Submit .*OK' 'admin .*Access/Revoke .*vera .*OK' \
    'olga .*Jobs/Pause .*OK' 'w1 .*Cluster/Control .*BEGUN' 'vera .*Jobs/Cancel .*EPERM'; do
    grep -qE "$what" "$DIR/audit" || { cat "$DIR/audit"; fail "the audit does not say: $what"; }
done
stop w1
stop distilld
