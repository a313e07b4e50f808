#!/usr/bin/env bash
# What a job makes in ONNX Runtime: its student, all steps of `compress`, and student and teacher in 8 bits after
# training. The onnx checker passes each, and every picture gets the class that our engine gives it, whether ONNX
# Runtime fuses the 8-bit convolutions or computes QuantizeLinear and DequantizeLinear as they stand.
#
#   [KD_BUILD=build/dev] [PEERS_PYTHON=python3] tests/peers/test_student.sh
#
# Exit code 0 if all agree, 77 if PEERS_PYTHON lacks onnx, onnxruntime or OpenCV, 1 otherwise.
. "$(dirname "${BASH_SOURCE[0]}")/small_job.sh" "cv2, onnx, onnxruntime" "onnx, onnxruntime or OpenCV"

train --set distill.epochs=6 --set "export=[safetensors, onnx]" --set "compress=[{prune: {share: 0.8, epochs: 2}}, \
    {quantize: {method: kl, pictures: 40, epochs: 1}}, {channels: {share: 0.5, epochs: 1, from: student}}, \
    {weights: {type: float16, from: student}}]"
models=("$DIR"/got/{student,compress,compress2,compress3,compress4}.onnx)
for method in minmax percentile mse kl; do
    models+=("$DIR/$method.onnx")
    distill quantize "$DIR/got/student.onnx" --data "$DIR/data/flowers/images" --method $method -O "$DIR/$method.onnx"
done
models+=("$DIR/teacher8.onnx")
distill quantize "$DIR/got/teacher.safetensors" --data "$DIR/data/flowers/images" -O "$DIR/teacher8.onnx"
for model in "${models[@]}"; do
    distill predict "$model" "$DIR/data/flowers/images" -o json --top 5 >"$DIR/ours.json"
    printf '%s: ' "$(basename "$model" .onnx)"
    "$python" tests/peers/onnx_student.py "$model" "$DIR/ours.json" || fail "$(basename "$model")"
done
