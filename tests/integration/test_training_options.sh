#!/usr/bin/env bash
# What a training run may be made of: each option changes the student, and none makes it depend on how
# many workers there are. A base job, the same with one option, for one worker and for three.
. tests/integration/cluster.sh

# run LABEL WORKERS SETS...: digests of the student's last and best version.
run() {
    local label=$1 n=$2 i job
    shift 2
    local sets=()
    for i in "$@"; do sets+=(--set "$i"); done
    job=$(distill submit "$DIR/job.yaml" --set cluster.min_workers="$n" --set cluster.max_workers="$n" \
        "${sets[@]}" -q)
    distill wait "$job" --timeout 10m || fail "$label with $n worker(s)"
    echo "$(stage_field "$job" distill digest) $(stage_field "$job" distill best_digest)" >"$DIR/$label-$n"
    echo "$job" >"$DIR/$label-$n.job"
    echo "$label, $n worker(s): $(cat "$DIR/$label-$n")"
}

small_data
cat >"$DIR/job.yaml" <<YAML
name: options
seed: 3
data:
  labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 24}
  augment: [flip]
teacher:
  model: mlp
  hidden: [16]
  fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-3}}
student: {layers: [{conv: {channels: 8, stride: 2}}, batch_norm, relu, {dropout: 0.2}, global_avg_pool]}
distill:
  loss: {kd: 0.9, ce: 0.1, temperature: 3}
  optimizer: {name: sgd, lr: 0.05, momentum: 0.9}
  epochs: 3
  batch: 16
  slots: 4
YAML
tuned='{epochs: 1, optimizer: {name: adam, lr: 1e-3}}'
# name|option|another option...
cases=(
    'base'
    'nesterov|distill.optimizer.nesterov=true'
    'adamw|distill.optimizer={name: adamw, lr: 0.01, weight_decay: 0.1}'
    'decay|distill.optimizer.weight_decay=0.01'
    'clip|distill.optimizer.clip_norm=0.05'
    'step|distill.optimizer.schedule=step|distill.optimizer.milestones=[1, 2]'
    'one_cycle|distill.optimizer.schedule=one_cycle'
    'average|distill.optimizer.ema=0.9'
    'no_dropout|student.layers=[{conv: {channels: 8, stride: 2}}, batch_norm, relu, {dropout: 0}, global_avg_pool]'
    'smoothing|distill.loss.label_smoothing=0.2'
    'freeze|distill.freeze=backbone'
    'small|student.size=16'
    'mixed|data.augment=[flip, {mixup: 0.4}, {cutmix: 1}]'
    'dkd|distill.loss.dkd=1'
    'dist|distill.loss.dist=2'
    'nkd|distill.loss.nkd=1'
    'jsd|distill.loss.jsd=1'
    'mse|distill.loss.mse=0.1'
    'standardise|distill.loss.standardise=true'
    'bfloat16|distill.precision=bfloat16'
    'gradients|cluster.gradients=bfloat16'
    'eval_every|distill.eval_every=4'
    'early|distill.early_stop={patience: 1, min_delta: 0.9}'
    "cnn|teacher={model: cheap_cnn, fine_tune: $tuned}"
    "int8|teacher={model: cheap_cnn, fine_tune: $tuned, precision: int8}"
)
for n in 1 3; do
    DISTILL_SERVER=
    coordinator "$DIR/state-$n"
    for i in $(seq "$n"); do worker "n$n-$i"; done
    await_workers "$n"
    for c in "${cases[@]}"; do
        IFS='|' read -ra parts <<<"$c"
        run "${parts[0]}" "$n" "${parts[@]:1}"
    done
    if [ "$n" -eq 3 ]; then
        # What an option should have done besides, and what it tells.
        early=$(cat "$DIR/early-3.job")
        [ "$(stage_field "$early" distill stopped_early)" -eq 12 ] ||
            fail "patience 1 with an unreachable min_delta must stop after the second epoch"
        has_event "$early" "ends early" || fail "no event tells of the early stop"
        every=$(cat "$DIR/eval_every-3.job")
        distill show "$every" -o json | python3 -c '
import json, sys
d = json.load(sys.stdin)
e = [s for s in d["stages"] if s["name"] == "distill"][0]["epochs"]
assert [x["step"] for x in e] == [4, 8, 12, 16, 18], e
assert all(x["val_kl"] >= 0 for x in e), e
shares = e[-1]["shares"]
assert len(shares) == 2 and abs(sum(shares) - 1) < 1e-9 and min(shares) > 0, shares
assert sum(x["best"] for x in e) >= 1, e' || fail "evaluations by step"
    fi
    for i in $(seq "$n"); do stop "n$n-$i"; done
    stop distilld
done
for c in "${cases[@]}"; do
    name=${c%%|*}
    cmp -s "$DIR/$name-1" "$DIR/$name-3" || fail "$name: three workers give other bits than one"
    [ "$name" = base ] || [ "$name" = eval_every ] || ! cmp -s "$DIR/$name-1" "$DIR/base-1" ||
        fail "$name changes nothing"
done
! cmp -s "$DIR/int8-1" "$DIR/cnn-1" || fail "a teacher in 8 bits labels as one in float32"
