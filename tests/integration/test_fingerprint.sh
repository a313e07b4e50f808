#!/usr/bin/env bash
# A worker whose kernels compute other bits than those of a job's other workers: it is refused for that job with the
# reason and what to do, the job does not hear of it otherwise, and a job that it has to itself it does.
. tests/integration/cluster.sh
[ "$(uname -m)" = x86_64 ] || exit 77 # what is chosen below are names of its kernels

small_data
plain_job | sed 's/epochs: 1,/epochs: 40,/' >"$DIR/job.yaml"
coordinator
worker a
await_workers 1
alone=$(distill submit "$DIR/job.yaml" -q)
distill wait "$alone" --timeout 5m >/dev/null

note "another kind of processor, as far as OpenBLAS and oneDNN know"
job=$(distill submit "$DIR/job.yaml" -q)
await_steps "$job" distill 1
distill pause "$job" >/dev/null
AROUND_WORKER=(env OPENBLAS_CORETYPE=Nehalem ONEDNN_MAX_CPU_ISA=SSE41)
worker b
await_workers 2
kinds=$(distill workers -o json | pick 'len({w["numerics"] for w in d["workers"]})')
[ "$kinds" = 2 ] || exit 77 # this processor is of that kind
distill resume "$job" >/dev/null
await_event "$job" 'worker refused: its numeric fingerprint is'
has_event "$job" 'start workers like those that began the job' || fail "nobody is told what to do"
distill wait "$job" --timeout 5m >/dev/null || fail "the job failed: $(distill show "$job")"
[ "$(stage_field "$job" distill digest)" = "$(stage_field "$alone" distill digest)" ] || fail "the odd worker was heard"

note "a job of its own"
stop a
own=$(distill submit "$DIR/job.yaml" --set distill.epochs=1 -q)
distill wait "$own" --timeout 5m >/dev/null || fail "it cannot serve any job: $(distill show "$own")"
[ "$(stage_field "$own" distill fingerprint)" != "$(stage_field "$job" distill fingerprint)" ] || fail "the same fingerprint"
