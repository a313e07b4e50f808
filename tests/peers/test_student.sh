#!/usr/bin/env bash
# A job's student in ONNX Runtime, as exported and in 8 bits: the onnx checker passes both, and every picture
# of the validation split gets the class that our engine gives it.
#
#   [KD_BUILD=build/dev] [PEERS_PYTHON=python3] tests/peers/test_student.sh
#
# Exit code 0 if all agree, 77 if PEERS_PYTHON lacks onnx, onnxruntime or OpenCV, 1 otherwise.
. "$(dirname "${BASH_SOURCE[0]}")/small_job.sh" "cv2, onnx, onnxruntime" "onnx, onnxruntime or OpenCV"

train --set distill.epochs=6 --set "export=[safetensors, onnx]"
for method in mse kl; do
    distill quantize "$DIR/got/student.onnx" --data "$DIR/data/flowers/images" --method $method -O "$DIR/$method.onnx"
done
cut -f 1 "$DIR/data/flowers/val.txt" | sed "s|^|$DIR/data/flowers/|" >"$DIR/val"
mapfile -t pictures <"$DIR/val"
for model in "$DIR/got/student.onnx" "$DIR/mse.onnx" "$DIR/kl.onnx"; do
    distill predict "$model" "${pictures[@]}" -o json --top 5 >"$DIR/ours.json"
    "$python" tests/peers/onnx_student.py "$model" "$DIR/ours.json" || fail "$(basename "$model")"
done
