#!/usr/bin/env python3
"""Our ONNX files in other programs.

onnx_export.py KD_ONNX_RUN FOLDER

Exports networks of the zoo with random parameters at opset 13 and 17. Each must pass the checker of
the onnx package, give the same numbers in ONNX Runtime as in our engine, and the same top-1 in
ONNX Runtime and OpenCV's DNN on every one of 64 random pictures. Exit code 1 if not."""
import os
import subprocess
import sys

import cv2
import numpy as np
import onnx
import onnxruntime as ort

MODELS = [("shallow_cnn", 64), ("shallow_cnn_deep", 64), ("mlp", 32), ("lenet", 32),
          ("cheap_cnn", 64), ("mobilenet_v2", 64), ("efficientnet_b0", 64), ("resnet18", 64),
          ("resnet50", 64)]
CLASSES = 7
COUNT = 64



def check(tool, folder, model, size, opset):
    path = os.path.join(folder, f"{model}_{opset}.onnx")
    p = subprocess.run([tool, "export", model, str(size), str(CLASSES), "3", str(opset), path],
                       capture_output=True, text=True)
    if p.returncode == 2:
        return None, p.stderr.strip()
    if p.returncode != 0:
        return False, p.stderr.strip()
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    meta = {m.key: m.value for m in proto.metadata_props}
    if meta.get("preprocess") != "symmetric" or meta.get("size") != str(size) or \
            meta.get("model") != model or not meta.get("classes", "").startswith("class 0\\, of"):
        return False, f"metadata {meta}"
    # Coarse patterns of strong colours: on noise an untrained network says the same to all.
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 3, (COUNT, 3, 4, 4)).repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    x = (x + rng.uniform(-1, 1, x.shape)).astype(np.float32)
    files = [os.path.join(folder, n) for n in ("x.bin", "y.bin")]
    x.tofile(files[0])
    p = subprocess.run([tool, "run", path, *files], capture_output=True, text=True)
    if p.returncode != 0:
        return False, p.stderr.strip()
    ours = np.fromfile(files[1], np.float32).reshape(COUNT, CLASSES)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"input": x})[0]
    net = cv2.dnn.readNetFromONNX(path)
    net.setInput(x)
    cv = net.forward()
    scale = max(1.0, float(np.abs(theirs).max()))
    worst = float(np.abs(ours - theirs).max()) / scale
    worst_cv = float(np.abs(cv - theirs).max()) / scale
    # An untrained head prefers one class for all pictures; less that, top-1 says something.
    top = [(a - theirs.mean(axis=0)).argmax(axis=1) for a in (ours, theirs, cv)]
    text = (f"ONNX Runtime off by {worst:.2g} of {scale:.3g}, OpenCV {cv2.__version__} by "
            f"{worst_cv:.2g}; {len(set(top[1]))} different top-1")
    if worst > 1e-4 or worst_cv > 1e-3 or (top[0] != top[1]).any() or (top[2] != top[1]).any():
        return False, text
    return True, text


def main():
    tool, folder = sys.argv[1:3]
    passed = failed = skipped = 0
    for model, size in MODELS:
        for opset in (13, 17):
            try:
                ok, text = check(tool, folder, model, size, opset)
            except Exception as e:  # whatever another program throws is a finding
                ok, text = False, f"{type(e).__name__}: {e}"
            word = "passed" if ok else "skipped" if ok is None else "FAILED"
            print(f"{word} {model} opset {opset}: {text}")
            passed += ok is True
            failed += ok is False
            skipped += ok is None
    print(f"exports: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
