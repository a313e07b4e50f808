#!/usr/bin/env bash
# The steps of `compress`: what each makes, the same digests for one worker and three, masks that
# survive killed workers and a killed coordinator, and what is refused.
. tests/integration/cluster.sh

small_data
STEPS=(compress compress2 compress3 compress4 compress5)
compress_job() {
    small_job
    cat <<YAML
compress:
  - {prune: {share: 0.8, epochs: 2}}
  - {quantize: {method: kl, pictures: 40, epochs: 1}}
  - {channels: {share: 0.5, epochs: 1, from: student}}
  - {quantize: {type: int8, from: student}}
  - {weights: {type: float16, from: student}}
export: [safetensors, onnx]
YAML
}
step_digests() {
    local s
    for s in distill tune tune2 tune3 "${STEPS[@]}"; do printf '%s ' "$(stage_field "$1" $s digest)"; done
    echo
}
# result JOB EXPRESSION: of result.json, as `r`.
result() { distill show "$1" -o json | pick "(lambda r: $2)(d['result'])"; }
compress_job >"$DIR/job.yaml"

note "one worker"
coordinator "$DIR/state-one"
worker one 2
await_workers 1
JOB=$(distill submit "$DIR/job.yaml" -q)
distill wait "$JOB" --timeout 10m
step_digests "$JOB" | tee "$DIR/digests-one"
[ "$(wc -w <"$DIR/digests-one")" -eq 9 ] || fail "not nine digests"

note "what the steps made"
distill fetch "$JOB" -O "$DIR/out"
ls "$DIR/out"/tune* 2>/dev/null && fail "what is still trained was fetched unasked"
distill fetch "$JOB" tune2.safetensors -O "$DIR/halfway"
distill inspect "$DIR/halfway/tune2.safetensors" -o json >"$DIR/halfway/inspected"
[ "$(pick "{l.get('weight_bits', 32) for l in d['layers']}" <"$DIR/halfway/inspected")" = "{32}" ] ||
    fail "floats are called 8 bits"
for s in "${STEPS[@]}"; do
    [ -s "$DIR/out/$s.onnx" ] || fail "no $s.onnx"
    distill evaluate "$DIR/out/$s.safetensors" "$DIR/data/flowers" --list val.txt -o json >"$DIR/$s-evaluated"
    distill inspect "$DIR/out/$s.safetensors" -o json >"$DIR/$s-inspected"
    [ "$(pick "d['correct']" <"$DIR/$s-evaluated")" = "$(result "$JOB" "r['$s']['correct']")" ] ||
        fail "$s: the file is not the network that was evaluated"
    [ "$(result "$JOB" "r['$s']['samples']")" = 37 ] || fail "$s: not the whole split"
    [ "$(result "$JOB" "len([p for p in r['pairs'] if p['a'] == '$s' and p['b'] == 'student'])")" = 1 ] ||
        fail "$s is not compared with the student"
done
layer() { pick "[l['$3'] for l in d['layers'] if l['name'] == '$2'][0]" <"$DIR/$1-inspected"; }
share() { pick "round(sum(l['zeros'] * l['parameters'] for l in d['layers'] if l['name'] in ('conv1', 'conv2', 'fc1')) / (1728 + 73728 + 65536), 3)" <"$DIR/$1-inspected"; }
[ "$(share compress)" = 0.8 ] || fail "$(share compress) of the weights are gone"
[ "$(share compress2)" = 0.8 ] || fail "8 bits have changed the mask: $(share compress2)"
[ "$(layer compress2 conv2 weight_bits)" = 8 ] && [ "$(layer compress4 conv2 weight_bits)" = 8 ] || fail "not in 8 bits"
[ "$(layer compress3 conv2 weight)" = "[64, 32, 3, 3]" ] || fail "conv2 has $(layer compress3 conv2 weight)"
[ "$(layer compress5 conv2 weight_bits)" = 16 ] || fail "not in 16 bits"
bytes() { stat -c %s "$DIR/out/$1.safetensors"; }
[ $(($(bytes compress4) * 100)) -lt $(($(bytes student) * 27)) ] || fail "8 bits take $(bytes compress4) bytes"
distill export "$DIR/out/compress.safetensors" --format c -O "$DIR/pruned.c"
distill export "$DIR/out/student.safetensors" --format c -O "$DIR/student.c"
[ "$(stat -c %s "$DIR/pruned.c")" -lt $(($(stat -c %s "$DIR/student.c") / 2)) ] || fail "pruned C is not smaller"
distill show "$JOB" >"$DIR/shown"
grep -q "8 bits (kl), 1 epoch" "$DIR/shown" || fail "show does not say what a step did"
distill events "$JOB" >"$DIR/events"
grep -q "compress4: 8 bits, calibrated with .*: the same answer as in float32 on" "$DIR/events" ||
    fail "no event says how 8 bits answer"
[ "$(pick "d['metadata']['distilld.calibration']" <"$DIR/compress2-inspected")" = "kl, 40 pictures" ] ||
    fail "compress2 does not say how it was calibrated"
for s in student "${STEPS[@]}"; do
    result "$JOB" "r['$s']['ms_per_image_64'] > 0" | says True
done
[ "$(result "$JOB" "[r[s]['same_work'] for s in ('compress', 'compress2', 'compress3', 'compress5')]")" = "[True, False, False, True]" ] ||
    fail "which steps make less work: $(result "$JOB" "[r[s]['same_work'] for s in ('compress', 'compress2', 'compress3', 'compress5')]")"
grep -q "^compress: .*as fast" "$DIR/shown" && fail "zeros are said to make it fast"
grep -q "^compress2 (of compress): .* times as fast (.* in batches of 64)" "$DIR/shown" || fail "show tells no speed"
grep -q "^compress4: .* points from the student .*% of its bytes" "$DIR/shown" || fail "show does not compare"
distill report "$JOB" -O "$DIR/report.html"
grep -q "compress2 − student" "$DIR/report.html" || fail "the report does not compare"
distill predict "$DIR/out/compress2.safetensors" "$DIR/data/flowers/images" -o json >"$DIR/predicted"

note "any order"
(sed -n '/^compress:/q;p' "$DIR/job.yaml"; cat <<YAML) >"$DIR/orders.yaml"
compress:
  - {quantize: {method: minmax, pictures: 40}}
  - {channels: {share: 0.5, epochs: 1}}
  - {prune: {share: 0.5, scope: layer, epochs: 1}}
  - {weights: {type: bfloat16, from: student}}
  - {channels: {share: 0.25, epochs: 0}}
  - {prune: {share: 0.6, scope: layer, epochs: 1}}
  - {quantize: {method: percentile, percentile: 99.9, pictures: 40, epochs: 1}}
YAML
ORDERS=$(distill submit "$DIR/orders.yaml" -q)
distill wait "$ORDERS" --timeout 10m
distill fetch "$ORDERS" -O "$DIR/orders"
# Filters of conv2, what they are held as, and how many of their weights are gone.
conv2() { distill inspect "$1" -o json | pick "['%d filters of %d bits, %.1f zero' % (l['weight'][0], l['weight_bits'], l['zeros']) for l in d['layers'] if l['name'] == 'conv2'][0]"; }
made() { # made STEP WHAT
    [ "$(conv2 "$DIR/orders/$1.safetensors")" = "$2" ] || fail "$1: $(conv2 "$DIR/orders/$1.safetensors"), not $2"
    distill evaluate "$DIR/orders/$1.safetensors" "$DIR/data/flowers" --list val.txt -o json >"$DIR/evaluated"
    [ "$(pick "d['correct']" <"$DIR/evaluated")" = "$(result "$ORDERS" "r['$1']['correct']")" ] ||
        fail "$1: the file is not the network that was evaluated"
}
made compress "128 filters of 8 bits, 0.0 zero"
made compress2 "64 filters of 8 bits, 0.0 zero"
made compress3 "64 filters of 8 bits, 0.5 zero"
made compress4 "128 filters of 16 bits, 0.0 zero"
made compress5 "96 filters of 16 bits, 0.0 zero"
made compress6 "96 filters of 16 bits, 0.6 zero"
made compress7 "96 filters of 8 bits, 0.6 zero"

note "it is replayed, and goes on"
distill verify "$JOB" --timeout 10m
MORE=$(distill continue "$JOB" --epochs 1 -q)
distill wait "$MORE" --timeout 10m
[ "$(stage_field "$MORE" compress digest)" != "$(stage_field "$JOB" compress digest)" ] || fail "the old student was made smaller"

note "what is refused"
sed -n '/^compress:/q;p' "$DIR/job.yaml" >"$DIR/plain.yaml"
refused() { # refused REASON EXIT STEP [SET...]
    local reason=$1 step=$2; shift 2
    (cat "$DIR/plain.yaml"; echo "compress: [$step]") >"$DIR/bad.yaml"
    local job
    job=$(distill submit "$DIR/bad.yaml" "$@" -q)
    distill wait "$job" --timeout 5m >/dev/null 2>&1 && fail "$step was taken"
    distill show "$job" >"$DIR/refused"
    grep -qF -- "$reason" "$DIR/refused" || { cat "$DIR/refused"; fail "no \"$reason\""; }
}
refused "20 pictures to calibrate with: 32 to 4096 are needed" "{quantize: int8}" --set data.labelled.max_train=20
at_once() { # at_once REASON STEP [SET...]: before anything runs
    local reason=$1 step=$2; shift 2
    (cat "$DIR/plain.yaml"; echo "compress: [$step]") >"$DIR/bad.yaml"
    local how
    for how in -q --dry-run; do
        distill submit "$DIR/bad.yaml" "$@" $how >"$DIR/refused" 2>&1 && fail "$step was taken"
        grep -qF -- "$reason" "$DIR/refused" || { cat "$DIR/refused"; fail "no \"$reason\""; }
    done
}
at_once "compress[0]: none of the network's 0 convolutions" "{quantize: int8}" --set student.model=mlp
at_once "compress[0]: none of the network's 2 convolutions" "{quantize: int8}" --set student.model=lenet
at_once "compress[1]: none of the network's channels can go" "{prune: 0.5}, {channels: {share: 0.1, multiple: 256}}"
# What an ONNX file holds is known to who trains it: the step finds that out.
refused "none of the network's channels can go" "{channels: {share: 0.1, multiple: 256}}" \
    --set "student={onnx: $DIR/out/student.onnx}" --set distill.epochs=1
# Five pictures, eight times each.
while read -r picture; do
    class=$(basename "$(dirname "$picture")")
    mkdir -p "$DIR/data/alike/$class"
    for i in 1 2 3 4 5 6 7 8; do cp "$picture" "$DIR/data/alike/$class/$i.jpg"; done
done < <(find "$DIR/data/flowers/images" -name '*.jpg' | sort | awk -F/ '!seen[$(NF-1)]++')
sed -i 's/path: flowers, train: train.txt, val: val.txt,/path: alike, val_share: 0.2, leakage: allow,/' "$DIR/plain.yaml"
refused "only 5 differ" "{quantize: int8}"
stop one
stop distilld

note "three workers, one killed while weights go, then the coordinator"
DISTILL_SERVER=
coordinator "$DIR/state-three"
for i in 1 2 3; do worker "w$i" 1; done
await_workers 3
JOB=$(distill submit "$DIR/job.yaml" --set cluster.min_workers=2 --set cluster.checkpoint_every=1 -q)
await_steps "$JOB" tune 3
stop w2 KILL
await_steps "$JOB" tune2 2
stop distilld KILL
coordinator "$DIR/state-three"
distill wait "$JOB" --timeout 10m
step_digests "$JOB" | tee "$DIR/digests-three"
cmp "$DIR/digests-one" "$DIR/digests-three" || fail "other digests with three workers and two crashes"
