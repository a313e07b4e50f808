#!/usr/bin/env bash
# teacher.precision: auto is settled once: by one of several workers, for good, over a killed coordinator
# and newcomers, and whoever runs the job with what was chosen gets the same bits.
. tests/integration/cluster.sh

small_data
cat >"$DIR/job.yaml" <<YAML
name: auto
seed: 3
data:
  labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 24}
teacher:
  model: cheap_cnn
  precision: auto
  fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-3}}
student: {layers: [{conv: {channels: 8, stride: 2}}, relu, global_avg_pool]}
distill:
  loss: {kd: 0.9, ce: 0.1, temperature: 3}
  optimizer: {name: sgd, lr: 0.05}
  epochs: 6
  batch: 16
  slots: 4
cluster: {min_workers: 3, max_workers: 3, checkpoint_every: 4}
YAML
chosen() { distill show "$1" -o json | pick 'd["resolved"]["teacher"]["precision"]'; }

coordinator
for i in 1 2 3; do worker "w$i"; done
await_workers 3
job=$(distill submit "$DIR/job.yaml" -q)
await_event "$job" "labels in"
word=$(chosen "$job")
[[ $word =~ ^(float32|bfloat16|int8)$ ]] || fail "the resolved job says '$word'"
note "chosen: $word"
# What was chosen outlives everybody who took part in it.
stop distilld KILL
stop w1 KILL
coordinator
worker w4
distill wait "$job" --timeout 5m || fail "the job did not end"
[ "$(chosen "$job")" = "$word" ] || fail "it was chosen again"
[ "$(distill events "$job" | grep -c 'labels in')" -eq 1 ] || fail "more than one choice"

# The same job with the word written down, for one worker.
plain=$(distill submit "$DIR/job.yaml" --set teacher.precision="$word" --set cluster.min_workers=1 \
    --set cluster.max_workers=1 -q)
distill wait "$plain" --timeout 5m || fail "the plain job did not end"
[ "$(digests "$job")" = "$(digests "$plain")" ] || fail "$(digests "$job") is not $(digests "$plain")"
# A replay goes by the choice, without one of its own.
again=$(distill replay "$job" -o json | pick 'd["job"]') || fail "the replay came out otherwise"
[ "$(chosen "$again")" = "$word" ] || fail "the replay chose anew"
! has_event "$again" "labels in" || fail "the replay measured"
