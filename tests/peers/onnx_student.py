#!/usr/bin/env python3
"""A student of ours in ONNX Runtime.

onnx_student.py MODEL.onnx OURS.json

OURS.json is what `distill predict MODEL ... -o json` printed. The model must pass the checker of the onnx package
and give each picture the class that it has there; preprocessing is what the file's own metadata says."""
import json
import sys

import cv2
import numpy as np
import onnx
import onnxruntime as ort

# Two 8-bit engines round ties in sums of float32 differently: a picture whose two best classes are this close
# may go to either.
CLOSE = {"float32": 1e-5, "8 bits": 0.02}


def answer(session, path, size, mean, std):
    """Probabilities of the classes of a picture that needs no resizing."""
    picture = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    if picture.shape != (size, size, 3):
        sys.exit(f"{path} is not {size}x{size}: it would have to be resized")
    x = ((picture / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    z = session.run(None, {session.get_inputs()[0].name: x})[0][0]
    p = np.exp(z - z.max())
    return p / p.sum()


def main():
    path, ours = sys.argv[1:3]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    meta = {m.key: m.value for m in model.metadata_props}
    mean, std = (np.array([float(x) for x in meta[k].split(",")]) for k in ("mean", "std"))
    size = int(meta["size"])
    kind = "8 bits" if any(n.op_type == "QuantizeLinear" for n in model.graph.node) else "float32"
    int8 = sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1 for t in model.graph.initializer)
    if (kind == "8 bits") != (int8 > 0):
        sys.exit(f"{kind} with {int8} weights of 8 bits")
    rows = [json.loads(line) for line in open(ours)]
    # Fused into 8-bit convolutions, and QuantizeLinear and DequantizeLinear as they stand.
    level = ort.GraphOptimizationLevel
    bad = not rows
    for how in (level.ORT_ENABLE_ALL, level.ORT_DISABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = how
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        differ, close, worst = 0, 0, 0.0
        for row in rows:
            p = answer(session, row["picture"], size, mean, std)
            guesses = {g["index"]: g["probability"] for g in row["guesses"]}
            worst = max(worst, max(abs(p[i] - q) for i, q in guesses.items()))
            first, second = np.sort(p)[::-1][:2]
            if int(p.argmax()) != row["guesses"][0]["index"]:
                differ += first - second > CLOSE[kind]
                close += first - second <= CLOSE[kind]
        print(f"{kind}, {how.name}: {len(rows)} pictures, {differ} other classes in ONNX Runtime {ort.__version__}, "
              f"{close} where two were within {CLOSE[kind]}, probabilities off by {worst:.2g}")
        bad = bad or differ or worst > (1e-4 if kind == "float32" else 0.1)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
