#!/usr/bin/env bash
# A finished job is gone on with: what comes out is what one longer run makes, bit for bit, for any number of
# workers, after restarts and after the old job is removed; what cannot be gone on with is refused clearly.
. tests/integration/cluster.sh
needs_grpc

go_on() { # go_on JOB EPOCHS KEY: prints the new job
    call Submit "{\"key\": \"$3\", \"continue_job\": \"$1\", \"continue_epochs\": $2}" | pick 'd["job"]'
}
refused() { # refused TEXT JSON: Submit is refused and says so
    rc=0; call Submit "$2" >"$DIR/out" 2>&1 || rc=$?
    [ $rc -ne 0 ] || fail "$2 was taken"
    grep -qF -- "$1" "$DIR/out" || fail "$2: no \"$1\" in $(cat "$DIR/out")"
}
all_digests() { # last and best ones
    local s
    digests "$1"
    for s in distill scratch; do stage_field "$1" "$s" best_digest; done
}
images() { # of result.json
    call Get "{\"job\": \"$1\"}" | pick 'd["result"]' | pick 'd["images"]'
}
evaluations() { # of a stage: epoch, step, correct, agreement, loss
    call Get "{\"job\": \"$1\"}" | pick "[(e['epoch'], e['step'], e['val_correct'], e['val_agree'], e['train_loss'], e['best']) for s in d['stages'] if s['name'] == '$2' for e in s['epochs']]"
}

small_data
small_job | sed 's/, epochs: 1}$/}/' >"$DIR/job.yaml" # the twin has as many epochs as the student
grep -q 'scratch: {optimizer: {name: adam, lr: 1e-3}}' "$DIR/job.yaml" || fail "the job file has changed"
coordinator
worker a
await_workers 1
long=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
distill wait "$long" --timeout 10m >/dev/null
want=$(all_digests "$long")
[ "$(wc -w <<<"$want")" -eq 5 ] || fail "not five digests: $want"
short=$(distill submit "$DIR/job.yaml" -q)
distill wait "$short" --timeout 10m >/dev/null
[ "$(stage_field "$short" distill digest)" != "$(stage_field "$long" distill digest)" ] || fail "two epochs are as good as four"

note "2 + 2 epochs are 4 epochs"
job=$(go_on "$short" 2 two)
[ "$(go_on "$short" 2 two)" = "$job" ] || fail "a repeat made another job"
distill wait "$job" --timeout 10m >/dev/null
[ "$(all_digests "$job")" = "$want" ] || fail "$(all_digests "$job") instead of $want"
for s in distill scratch; do
    [ "$(evaluations "$job" $s)" = "$(evaluations "$long" $s)" ] || fail "evaluations of $s: $(evaluations "$job" $s), $(evaluations "$long" $s)"
done
call Get "{\"job\": \"$job\"}" >"$DIR/detail"
[ "$(pick 'd["continued"]' <"$DIR/detail")" = "$short" ] || fail "it does not say what it goes on from"
[ "$(pick 'json.loads(d["resolved"])["distill"]["epochs"]' <"$DIR/detail")" -eq 4 ] || fail "epochs of the resolved job"
[ "$(stage_field "$job" teacher shared)" = "$short" ] || fail "the teacher was made again"
[ "$(stage_field "$job" distill teacher_forwards)" -eq 0 ] || fail "logits were computed again"

note "2 + 1 + 1 epochs, on three workers, with the old job removed and the coordinator killed"
worker b 2
worker c
await_workers 3
middle=$(go_on "$short" 1 three)
distill wait "$middle" --timeout 10m >/dev/null
job=$(go_on "$middle" 1 four)
call Remove "{\"job\": \"$short\"}" >/dev/null
for _ in $(seq 300); do
    [ "$(stage_field "$job" distill committed)" -ge 19 ] && break
    sleep 0.05
done
stop distilld KILL
coordinator
distill wait "$job" --timeout 10m >/dev/null
[ "$(all_digests "$job")" = "$want" ] || fail "$(all_digests "$job") instead of $want"

note "a replay of a continued job runs its part of the way again"
again=$(call Submit "{\"key\": \"replay\", \"replay_job\": \"$job\"}" | pick 'd["job"]')
distill wait "$again" --timeout 10m >/dev/null
[ "$(all_digests "$again")" = "$want" ] || fail "$(all_digests "$again") instead of $want"
call Get "{\"job\": \"$again\"}" >"$DIR/detail"
[ "$(pick 'd["replayed"], d["continued"]' <"$DIR/detail")" = "('$job', '$middle')" ] || fail "$(pick 'd["replayed"], d["continued"]' <"$DIR/detail")"

note "a twin with epochs of its own is taken over as it is"
short=$(distill submit "$DIR/job.yaml" --set scratch.epochs=1 -q)
distill wait "$short" --timeout 10m >/dev/null
job=$(go_on "$short" 2 own)
distill wait "$job" --timeout 10m >/dev/null
[ "$(stage_field "$job" distill digest)" = "$(stage_field "$long" distill digest)" ] || fail "the student differs"
[ "$(stage_field "$job" scratch digest)" = "$(stage_field "$short" scratch digest)" ] || fail "the twin differs"
[ "$(stage_field "$job" scratch shared)" = "$short" ] || fail "the twin was made again"

note "after early stopping it goes on for as many epochs, without stopping"
early=$(distill submit "$DIR/job.yaml" --set distill.epochs=6 --set 'distill.early_stop={patience: 1, min_delta: 0.9}' --set scratch.epochs=1 -q)
distill wait "$early" --timeout 10m >/dev/null
[ "$(stage_field "$early" distill stopped_early)" -eq 12 ] || fail "it was not stopped after two epochs"
call Submit "{\"key\": \"early\", \"continue_job\": \"$early\", \"continue_epochs\": 2}" >"$DIR/reply"
pick 'd["notes"]' <"$DIR/reply" | says 'without early stopping' || fail "no note: $(pick 'd["notes"]' <"$DIR/reply")"
job=$(pick 'd["job"]' <"$DIR/reply")
distill wait "$job" --timeout 10m >/dev/null
[ "$(stage_field "$job" distill digest)" = "$(stage_field "$long" distill digest)" ] || fail "2 epochs stopped early + 2 are not 4"
# 90 an epoch: of the teacher one, of the student two instead of six, of the twin one; then none but the student's.
[ "$(images "$early") $(images "$job")" = "360 360" ] || fail "images: $(images "$early"), $(images "$job")"

note "a twin that was ended early goes on too, though it has as many epochs then as it was given"
early=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 --set scratch.epochs=4 --set 'scratch.early_stop={patience: 1, min_delta: 0.9}' -q)
distill wait "$early" --timeout 10m >/dev/null
[ "$(stage_field "$early" scratch stopped_early)" -eq 12 ] || fail "the twin was not stopped after two epochs"
job=$(go_on "$early" 2 twin)
distill wait "$job" --timeout 10m >/dev/null
[ "$(stage_field "$job" scratch shared)" != "$early" ] || fail "the twin did not go on"
[ "$(stage_field "$job" scratch digest)" = "$(stage_field "$long" scratch digest)" ] || fail "a twin of 2 epochs and 2 more is not one of 4"

note "averages of the weights go on too"
long=$(distill submit "$DIR/job.yaml" --set distill.epochs=3 --set distill.optimizer.ema=0.9 --set scratch.epochs=2 -q)
short=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 --set distill.optimizer.ema=0.9 --set scratch.epochs=2 -q)
distill wait "$short" --timeout 10m >/dev/null
job=$(go_on "$short" 2 averages)
distill wait "$job" --timeout 10m >/dev/null
distill wait "$long" --timeout 10m >/dev/null
[ "$(all_digests "$job")" = "$(all_digests "$long")" ] || fail "with averages: $(all_digests "$job") instead of $(all_digests "$long")"

note "a schedule over the whole run is computed anew, and a note says so"
call Submit "{\"key\": \"cosine\", \"text\": $(python3 -c 'import json, sys; print(json.dumps(open(sys.argv[1]).read()))' "$DIR/job.yaml"), \"set\": [\"distill.optimizer.schedule=cosine\", \"distill.epochs=1\", \"scratch.epochs=1\"]}" >"$DIR/reply"
cosine=$(pick 'd["job"]' <"$DIR/reply")
distill wait "$cosine" --timeout 10m >/dev/null
call Submit "{\"dry_run\": true, \"continue_job\": \"$cosine\", \"continue_epochs\": 1}" | pick 'd["notes"]' | says 'computed over 2 epochs' || fail "no note on the schedule"

note "what is refused"
refused 'no job 0123' '{"key": "x1", "continue_job": "0123", "continue_epochs": 1}'
refused 'by how many epochs' "{\"key\": \"x2\", \"continue_job\": \"$cosine\"}"
refused 'are more than 10000' "{\"key\": \"x3\", \"continue_job\": \"$cosine\", \"continue_epochs\": 10000}"
refused 'do not go with' "{\"key\": \"x4\", \"continue_job\": \"$cosine\", \"continue_epochs\": 1, \"set\": [\"name=x\"]}"
refused 'exclude each other' "{\"key\": \"x5\", \"continue_job\": \"$cosine\", \"continue_epochs\": 1, \"replay_job\": \"$cosine\"}"
refused 'belongs to another job' "{\"key\": \"two\", \"continue_job\": \"$cosine\", \"continue_epochs\": 2}"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=40 -q)
refused 'has not succeeded' "{\"key\": \"x6\", \"continue_job\": \"$job\", \"continue_epochs\": 1}"
call Cancel "{\"job\": \"$job\"}" >/dev/null
refused 'has not succeeded' "{\"key\": \"x7\", \"replay_job\": \"$job\"}"
before=$(find "$DIR/state/jobs" -mindepth 1 -maxdepth 1 | wc -l)
find "$DIR/state/jobs/$cosine" -name 'stage1-version*' -delete
refused 'no longer there' "{\"key\": \"x8\", \"continue_job\": \"$cosine\", \"continue_epochs\": 1}"
[ "$(find "$DIR/state/jobs" -mindepth 1 -maxdepth 1 | wc -l)" -eq "$before" ] || fail "a refused job left its folder"

note "other data"
head -n 80 "$DIR/data/flowers/train.txt" >"$DIR/train.txt" && cp "$DIR/train.txt" "$DIR/data/flowers/train.txt"
job=$(go_on "$short" 1 data)
rc=0; distill wait "$job" --timeout 10m >/dev/null 2>&1 || rc=$?
[ $rc -eq 7 ] || fail "on other data: exit code $rc"
call Get "{\"job\": \"$job\"}" | pick 'd["summary"]["reason"]' | says "cannot go on with job $short: its data was" ||
    fail "$(call Get "{\"job\": \"$job\"}" | pick 'd["summary"]["reason"]')"
