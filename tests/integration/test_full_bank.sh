#!/usr/bin/env bash
# A second job on other workers takes every logit from the bank: not one teacher forward.
. tests/integration/cluster.sh

small_cluster a
first=$(distill submit "$DIR/job.yaml" -q)
distill wait "$first" --timeout 10m
forwards=$(stage_field "$first" distill teacher_forwards)
[ "$forwards" -eq 127 ] || fail "the first job ran $forwards teacher forwards for 90 training and 37 validation samples of one view"
stop a
worker b
worker c 2
await_workers 2
second=$(distill submit "$DIR/job.yaml" --set distill.loss.temperature=2 --set distill.epochs=1 -q)
distill wait "$second" --timeout 10m
forwards=$(stage_field "$second" distill teacher_forwards)
hits=$(stage_field "$second" distill bank_hits)
[ "$forwards" -eq 0 ] || fail "the second job ran $forwards teacher forwards"
[ "$hits" -ge 127 ] || fail "the second job took only $hits logits from the bank"
