#!/usr/bin/env python3
"""Small ONNX models in the manner of PyTorch and of TensorFlow, with ONNX Runtime's answers.

make_onnx_golden.py FOLDER      (tests/golden/onnx; needs numpy, onnx and onnxruntime from PyPI)

Writes the models and expected.json: for each its input in the model's own order, and its logits,
that is, what it gives before a softmax at its end."""
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SIZE, BATCH = 12, 2
rng = np.random.default_rng(7)


def weights(*shape, scale=None):
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return rng.normal(0, scale or (2 / fan) ** .5, shape).astype(np.float32)


def norm(name, c):
    return {f"{name}.weight": np.abs(weights(c)) + np.float32(.5), f"{name}.bias": weights(c, scale=.1),
            f"{name}.running_mean": weights(c, scale=.1),
            f"{name}.running_var": np.abs(weights(c)) + np.float32(.5)}


def bn(x, y, name):
    return helper.make_node("BatchNormalization", [x] + [f"{name}.{s}" for s in (
        "weight", "bias", "running_mean", "running_var")], [y], name=name, epsilon=1e-5)


def make(nodes, inits, dims, output, opset, legacy=False):
    """legacy: initialisers stand among the inputs too, as IR version 3 wants it."""
    tensors = [numpy_helper.from_array(v, k) for k, v in inits.items()]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, dims)]
    if legacy:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "golden", inputs,
                              [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])],
                              tensors)
    return helper.make_model(graph, ir_version=3 if legacy else 7,
                             opset_imports=[helper.make_opsetid("", opset)])


def torch_style():
    """Residual block, depthwise convolution, squeeze and excite, a shape-computing tail."""
    node = helper.make_node
    inits = {"stem.0.weight": weights(8, 3, 3, 3), **norm("stem.1", 8),
             "block.dw.weight": weights(8, 1, 3, 3), "block.dw.bias": weights(8, scale=.1),
             "block.se.weight": weights(8, 8, 1, 1), "low": np.float32(0), "high": np.float32(6),
             "fc1.weight": weights(10, 8 * 9), "fc1.bias": weights(10, scale=.1),
             "fc2.weight": weights(5, 10), "fc2.bias": weights(5, scale=.1),
             "zero": np.array(0, np.int64), "axis0": np.array([0], np.int64),
             "rest": np.array([-1], np.int64)}
    nodes = [
        node("Conv", ["input", "stem.0.weight"], ["c0"], name="/stem/Conv", pads=[1, 1, 1, 1],
             kernel_shape=[3, 3], strides=[2, 2], dilations=[1, 1], group=1),
        bn("c0", "b0", "stem.1"), node("Relu", ["b0"], ["r0"], name="/stem/Relu"),
        node("Conv", ["r0", "block.dw.weight", "block.dw.bias"], ["c1"], name="/block/dw/Conv",
             pads=[2, 2, 2, 2], kernel_shape=[3, 3], dilations=[2, 2], group=8),
        node("Clip", ["c1", "low", "high"], ["k1"], name="/block/Clip"),
        node("GlobalAveragePool", ["k1"], ["g1"], name="/block/se/pool"),
        node("Conv", ["g1", "block.se.weight"], ["c2"], name="/block/se/Conv", kernel_shape=[1, 1]),
        node("Sigmoid", ["c2"], ["s2"], name="/block/se/Sigmoid"),
        node("Mul", ["s2", "k1"], ["m2"], name="/block/se/Mul"),
        node("Add", ["m2", "r0"], ["a2"], name="/block/Add"),
        node("Sigmoid", ["a2"], ["s3"], name="/silu/Sigmoid"),
        node("Mul", ["a2", "s3"], ["silu"], name="/silu/Mul"),
        node("MaxPool", ["silu"], ["p3"], name="/pool", kernel_shape=[3, 3], strides=[2, 2],
             ceil_mode=1),
        node("Shape", ["p3"], ["shape"], name="/Shape"),
        node("Gather", ["shape", "zero"], ["n"], name="/Gather", axis=0),
        node("Unsqueeze", ["n", "axis0"], ["n1"], name="/Unsqueeze"),
        node("Concat", ["n1", "rest"], ["view"], name="/Concat", axis=0),
        node("Reshape", ["p3", "view"], ["flat"], name="/Reshape"),
        node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["f1"], name="/fc1/Gemm", transB=1),
        node("Relu", ["f1"], ["r1"], name="/Relu"),
        node("Dropout", ["r1"], ["d1"], name="/Dropout"),
        node("Gemm", ["d1", "fc2.weight", "fc2.bias"], ["logits"], name="/fc2/Gemm", transB=1),
    ]
    return make(nodes, inits, ["batch", 3, "height", "width"], "logits", 13), "logits"


def tf_style():
    """NHWC input, padding apart, a bias added in NHWC, a mean, MatMul and Add, softmax."""
    node = helper.make_node
    inits = {"sequential/conv/kernel:0": weights(6, 3, 3, 3), **norm("sequential/bn", 6),
             "sequential/conv2/kernel:0": weights(4, 6, 2, 2), "sequential/conv2/bias:0": weights(4),
             "scale": np.array(0.5, np.float32), "shift": np.array([.1, .2, .3], np.float32),
             "sequential/dense/kernel:0": weights(8, 3, scale=.5),
             "sequential/dense/bias:0": weights(3, scale=.5)}
    nodes = [
        node("Mul", ["input", "scale"], ["x0"], name="rescale"),
        node("Sub", ["x0", "shift"], ["x1"], name="offset"),
        node("Transpose", ["x1"], ["t0"], name="to_nchw", perm=[0, 3, 1, 2]),
        node("Pad", ["t0"], ["p0"], name="pad", mode="constant", pads=[0, 0, 0, 0, 0, 0, 1, 1],
             value=0.0),
        node("Conv", ["p0", "sequential/conv/kernel:0"], ["c0"], name="conv", strides=[2, 2],
             auto_pad="VALID"),
        bn("c0", "b0", "sequential/bn"),
        node("Clip", ["b0"], ["r0"], name="relu6", min=0.0, max=6.0),
        node("Conv", ["r0", "sequential/conv2/kernel:0"], ["c1"], name="conv2",
             auto_pad="SAME_UPPER"),
        node("Transpose", ["c1"], ["t1"], name="to_nhwc", perm=[0, 2, 3, 1]),
        node("Add", ["t1", "sequential/conv2/bias:0"], ["a1"], name="bias"),
        node("LeakyRelu", ["a1"], ["l1"], name="leaky", alpha=0.3),
        node("Tanh", ["l1"], ["h1"], name="tanh"),
        node("Concat", ["l1", "h1"], ["cat"], name="concat", axis=3),
        node("ReduceMean", ["cat"], ["mean"], name="mean", axes=[1, 2], keepdims=0),
        node("MatMul", ["mean", "sequential/dense/kernel:0"], ["mm"], name="dense/MatMul"),
        node("Add", ["mm", "sequential/dense/bias:0"], ["logits"], name="dense/BiasAdd"),
        node("Softmax", ["logits"], ["probabilities"], name="softmax"),
    ]
    return make(nodes, inits, [None, SIZE, SIZE, 3], "probabilities", 9, legacy=True), "logits"


def external():
    """A weight in a file of its own."""
    node = helper.make_node
    inits = {"fc.weight": weights(3, 3 * SIZE * SIZE), "fc.bias": weights(3)}
    nodes = [node("Flatten", ["input"], ["flat"], name="flatten"),
             node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1)]
    return make(nodes, inits, [BATCH, 3, SIZE, SIZE], "logits", 17), "logits"


def answer(model, logits, folder):
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.output[:]
    plain.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    shape = [BATCH, SIZE, SIZE, 3] if dims[3] == 3 else [BATCH, 3, SIZE, SIZE]
    # Few digits: the file is read by people too.
    x = np.round(rng.uniform(-1, 1, shape), 3).astype(np.float32)
    session = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"input": x})[0]
    return {"input": [round(float(v), 3) for v in x.ravel()],
            "logits": [float(f"{v:.8g}") for v in y.ravel()], "shape": list(y.shape)}


def main():
    folder = sys.argv[1]
    answers = {}
    for name, (model, logits) in (("torch_style", torch_style()), ("tf_style", tf_style()),
                                  ("external", external())):
        answers[name] = answer(model, logits, folder)
        onnx.checker.check_model(model)
        path = os.path.join(folder, name + ".onnx")
        if name != "external":
            onnx.save(model, path)
            continue
        for part in (path, os.path.join(folder, "external.bin")):
            if os.path.exists(part):
                os.unlink(part)
        onnx.save(model, path, save_as_external_data=True, location="external.bin",
                  size_threshold=1024, convert_attribute=False)
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(answers, f)
        f.write("\n")


if __name__ == "__main__":
    main()
