#!/usr/bin/env python3
"""Random classifiers in the manner of PyTorch and of TensorFlow, ours against ONNX Runtime.

onnx_random.py KD_ONNX_RUN FOLDER [COUNT [FIRST_SEED]]

Each model must give the same logits in our engine as in ONNX Runtime, and again after we have read
and written it. Exit code 1 if one does not, or is refused."""
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

BATCH, CLASSES = 2, 4


class Model:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice([9, 11, 13, 15, 17]))
        self.nodes, self.inits, self.count = [], [], 0

    def pick(self, *items):
        return items[int(self.rng.integers(len(items)))]

    def name(self, what):
        self.count += 1
        return f"{what}_{self.count}"

    def init(self, array, what="w"):
        """An initialiser, or sometimes a Constant node."""
        name = self.name(what)
        if self.rng.integers(4) == 0:
            self.nodes.append(helper.make_node("Constant", [], [name],
                                               value=numpy_helper.from_array(array, name)))
        else:
            self.inits.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, *shape, scale=1.0, positive=False):
        a = self.rng.normal(0, scale, shape)
        return (np.abs(a) + 0.2 if positive else a).astype(np.float32)

    def ints(self, values, what="shape"):
        return self.init(np.array(values, np.int64), what)

    def op(self, kind, inputs, **attrs):
        out = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out + "_node", **attrs))
        return out

    # x is (value, shape); shapes are [N,C,H,W] unless said otherwise

    def conv(self, x):
        v, (n, c, h, w) = x
        groups = self.pick(1, 1, c)
        if c % 2 == 0 and self.rng.integers(3) == 0:
            groups = 2
        out = groups * int(self.rng.integers(1, 4)) if groups > 1 else int(self.rng.integers(2, 9))
        k = [int(self.rng.integers(1, 4)) for _ in range(2)]
        if min(h, w) < 4:
            k = [1, 1]
        attrs = {"group": groups}
        if self.rng.integers(2):
            attrs["kernel_shape"] = k
        stride = self.pick([1, 1], [2, 2], [1, 2])
        attrs["strides"] = stride
        far = [1, 1]
        mode = self.pick("pads", "SAME_UPPER", "SAME_LOWER", "VALID")
        if mode == "pads":
            far = self.pick([1, 1], [2, 1]) if min(h, w) > 6 else [1, 1]
            attrs["dilations"] = far
            attrs["pads"] = [int(p) for p in self.rng.integers(0, 2, 4)]
        else:
            attrs["auto_pad"] = mode
        inputs = [v, self.init(self.floats(out, c // groups, *k, scale=(2 / (c // groups * k[0] * k[1])) ** .5))]
        if self.rng.integers(2):
            inputs.append(self.init(self.floats(out, scale=.1), "b"))
        return self.op("Conv", inputs, **attrs)

    def batch_norm(self, x):
        v, (n, c, h, w) = x
        return self.op("BatchNormalization",
                       [v, self.init(self.floats(c, positive=True)), self.init(self.floats(c)),
                        self.init(self.floats(c)), self.init(self.floats(c, positive=True))],
                       epsilon=1e-3)

    def activation(self, x):
        v = x[0]
        kind = self.pick("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip6", "Clip",
                         "silu", "hswish", "HardSwish", "Dropout")
        if kind == "LeakyRelu":
            return self.op(kind, [v], alpha=0.2)
        if kind in ("Clip6", "Clip"):
            low, high = (0.0, 6.0) if kind == "Clip6" else (-0.5, 0.7)
            if self.opset < 11:
                return self.op("Clip", [v], min=low, max=high)
            return self.op("Clip", [v, self.init(np.float32(low)), self.init(np.float32(high))])
        if kind == "silu":
            return self.op("Mul", self.pick([v, self.op("Sigmoid", [v])],
                                            [self.op("Sigmoid", [v]), v]))
        if kind == "hswish":
            return self.op("Mul", [v, self.op("HardSigmoid", [v], alpha=1 / 6, beta=0.5)])
        if kind == "HardSwish" and self.opset < 14:
            kind = "Relu"
        return self.op(kind, [v])

    def pool(self, x):
        v, (n, c, h, w) = x
        if min(h, w) < 4:
            return self.op("Relu", [v])
        kind = self.pick("MaxPool", "AveragePool")
        attrs = {"kernel_shape": self.pick([2, 2], [3, 3], [2, 3]), "strides": self.pick([1, 1], [2, 2])}
        if self.opset >= 10:
            attrs["ceil_mode"] = self.pick(0, 1)
        if self.rng.integers(2):
            attrs["pads"] = [int(p) for p in self.rng.integers(0, 2, 4)]
        elif attrs.get("ceil_mode", 0) == 0:
            attrs["auto_pad"] = self.pick("SAME_UPPER", "VALID")
        if kind == "AveragePool":
            attrs["count_include_pad"] = self.pick(0, 1)
        return self.op(kind, [v], **attrs)

    def arithmetic(self, x):
        v, (n, c, h, w) = x
        shape = self.pick([], [1], [c, 1, 1], [1, c, 1, 1], [h, w], [1, 1, w], [c, h, w], [1, 1, 1, 1])
        kind = self.pick("Add", "Sub", "Mul", "Div")
        k = self.init(self.floats(*shape, positive=kind == "Div"), "k")
        return self.op(kind, [k, v] if kind in ("Add", "Sub") and self.rng.integers(2) else [v, k])

    def excite(self, x):
        v, (n, c, h, w) = x
        m = self.mean(x, True) if self.rng.integers(2) else self.op("GlobalAveragePool", [v])
        m = self.op("Conv", [m, self.init(self.floats(c, c, 1, 1, scale=c ** -.5))])
        return self.op("Mul", self.pick([v, self.op("Sigmoid", [m])], [self.op("Sigmoid", [m]), v]))

    def mean(self, x, keep, axes=(2, 3)):
        return self.op("ReduceMean", [x[0]], axes=list(axes), keepdims=int(keep))

    def residual(self, x):
        v, (n, c, h, w) = x
        y = self.op("Conv", [v, self.init(self.floats(c, c, 3, 3, scale=(1 / (9 * c)) ** .5))],
                    pads=[1, 1, 1, 1])
        return self.op(self.pick("Add", "Sub", "Mul"), self.pick([v, y], [y, v]))

    def concat(self, x):
        v, (n, c, h, w) = x
        axis = self.pick(1, 1, 2, 3)
        parts = [v, self.op("Tanh", [v]), v][:self.pick(2, 3)]
        return self.op("Concat", parts, axis=axis)

    def slice(self, x):
        v, s = x
        axis = self.pick(1, 2, 3)
        if s[axis] < 4:
            return self.op("Identity", [v])
        start, stop = self.pick((1, s[axis] - 1), (0, -1), (-3, 100000), (1, s[axis]))
        if self.opset < 10:
            return self.op("Slice", [v], starts=[start], ends=[stop], axes=[axis])
        step = self.pick(1, 1, 2)
        return self.op("Slice", [v, self.ints([start]), self.ints([stop]), self.ints([axis]),
                                 self.ints([step])])

    def pad(self, x):
        v = x[0]
        pads = [0, 0, *self.rng.integers(0, 3, 2), 0, 0, *self.rng.integers(0, 3, 2)]
        pads = [int(p) for p in pads]
        value = self.pick(0.0, 0.0, 0.5)
        if self.opset < 11:
            return self.op("Pad", [v], pads=pads, value=value, mode="constant")
        return self.op("Pad", [v, self.ints(pads), self.init(np.float32(value))], mode="constant")

    def shuffle(self, x):
        v, (n, c, h, w) = x
        g = next((g for g in (3, 2) if c % g == 0), 1)
        b = self.pick(-1, BATCH) if self.fixed else -1
        y = self.op("Reshape", [v, self.ints([b, g, c // g, h, w])])
        y = self.op("Transpose", [y], perm=[0, 2, 1, 3, 4])
        return self.op("Reshape", [y, self.ints([b, c, h, w])])

    def swap(self, x):
        """A stretch in [N,H,W,C], as TensorFlow has it."""
        v, (n, c, h, w) = x
        y = self.op("Transpose", [v], perm=[0, 2, 3, 1])
        for _ in range(self.pick(1, 2)):
            what = self.pick("bias", "act", "concat", "slice", "gate", "dense", "mean")
            if what == "bias":
                y = self.op("Add", [y, self.init(self.floats(c), "bias")])
            elif what == "act":
                y = self.op(self.pick("Relu", "Tanh"), [y])
            elif what == "concat":
                y = self.op("Concat", [y, self.op("Relu", [y])], axis=self.pick(2, 3))
                break
            elif what == "slice" and c > 2 and self.opset >= 10:
                y = self.op("Slice", [y, self.ints([1]), self.ints([c]), self.ints([3])])
                c -= 1
            elif what == "gate":
                m = self.mean((y, None), True, (1, 2))
                y = self.op("Mul", [y, self.op("Sigmoid", [m])])
            elif what == "dense":
                m = int(self.rng.integers(2, 6))
                y = self.op("MatMul", [y, self.init(self.floats(c, m, scale=c ** -.5))])
                y = self.op("Add", [y, self.init(self.floats(m), "bias")])
                c = m
            elif what == "mean":
                y = self.op("Sub", [y, self.mean((y, None), True, (3,))])
        return self.op("Transpose", [y], perm=[0, 3, 1, 2])

    def split(self, x):
        v, (n, c, h, w) = x
        if c < 4:
            return self.op("Identity", [v])
        a, b = c // 2, c - c // 2
        names = [self.name("part"), self.name("part")]
        if self.opset < 13:
            self.nodes.append(helper.make_node("Split", [v], names, axis=1, split=[a, b]))
        else:
            self.nodes.append(helper.make_node("Split", [v, self.ints([a, b])], names, axis=1))
        return self.op("Concat", [names[1], self.op("Relu", [names[0]])], axis=1)

    def unsqueeze(self, v, axes):
        if self.opset < 13:
            return self.op("Unsqueeze", [v], axes=axes)
        return self.op("Unsqueeze", [v, self.ints(axes)])

    def squeeze(self, v, axes):
        if self.opset < 13:
            return self.op("Squeeze", [v], axes=axes)
        return self.op("Squeeze", [v, self.ints(axes)])

    def tail(self, x):
        """Into [N,K] by one of the ways there are; K is known from shape inference."""
        v, (n, c, h, w) = x
        how = self.pick("flatten", "view", "shape", "gap", "mean", "tf", "squeeze")
        if how == "flatten":
            return self.op("Flatten", [v], axis=1), c * h * w
        if how == "view":
            return self.op("Reshape", [v, self.ints([0, -1])]), c * h * w
        if how == "shape":
            shape = self.op("Shape", [v])
            n = self.op("Gather", [shape, self.init(np.array(0, np.int64), "i")], axis=0)
            rest = self.ints([c * h * w])
            both = self.op("Concat", [self.unsqueeze(n, [0]), rest], axis=0)
            return self.op("Reshape", [v, both]), c * h * w
        if how == "gap":
            return self.op("Flatten", [self.op("GlobalAveragePool", [v])]), c
        if how == "mean":
            return self.mean(x, False), c
        if how == "squeeze":
            return self.squeeze(self.op("GlobalAveragePool", [v]), [2, 3]), c
        y = self.op("Transpose", [v], perm=[0, 2, 3, 1])
        return self.op("Reshape", [y, self.ints([-1, c * h * w])]), c * h * w

    def build(self):
        nhwc = self.rng.integers(2) == 0
        self.fixed = self.rng.integers(3) == 0
        size = int(self.rng.integers(8, 14))
        dims = [BATCH if self.fixed else "N", *((size, size, 3) if nhwc else (3, size, size))]
        info = helper.make_tensor_value_info("picture", TensorProto.FLOAT, dims)
        self.shape = (BATCH, *dims[1:])
        v = self.op("Transpose", ["picture"], perm=[0, 3, 1, 2]) if nhwc else "picture"
        for _ in range(int(self.rng.integers(3, 9))):
            step = self.pick(self.conv, self.conv, self.batch_norm, self.activation, self.activation,
                             self.pool, self.arithmetic, self.excite, self.residual, self.concat,
                             self.slice, self.pad, self.shuffle, self.swap, self.split)
            v = step((v, self.shape_of(info, v)))
        flat, k = self.tail((v, self.shape_of(info, v)))
        if self.rng.integers(2):
            flat = self.op("Gemm", [flat, self.init(self.floats(16, k, scale=k ** -.5)),
                                    self.init(self.floats(16))], transB=1)
            flat, k = self.op("Relu", [flat]), 16
        w = self.floats(k, CLASSES, scale=k ** -.5)
        if self.rng.integers(2):
            out = self.op("Gemm", [flat, self.init(w), self.init(self.floats(CLASSES))], alpha=0.5)
        else:
            out = self.op("Add", [self.op("MatMul", [flat, self.init(w)]),
                                  self.init(self.floats(CLASSES), "bias")])
        self.logits = out
        if self.rng.integers(2):
            out = self.op("Softmax", [out], axis=1)
        return self.finish(info, out), self.finish(info, self.logits)

    def finish(self, info, out):
        used, nodes = {out}, []
        for n in reversed(self.nodes):
            if used & set(n.output):
                nodes.append(n)
                used |= set(n.input)
        graph = helper.make_graph(nodes[::-1], "random", [info],
                                  [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
                                  [t for t in self.inits if t.name in used])
        return helper.make_model(graph, ir_version=7 if self.opset < 15 else 8,
                                 opset_imports=[helper.make_opsetid("", self.opset)])

    def shape_of(self, info, v):
        """The shape of a value, by running the model so far."""
        if v == "picture":
            return self.shape
        return run_ort(self.finish(info, v), np.zeros(self.shape, np.float32)).shape


def run_ort(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options,
                                   providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def compare(tool, folder, seed):
    m = Model(seed)
    model, plain = m.build()
    x = m.rng.normal(0, 1, m.shape).astype(np.float32)
    want = run_ort(plain, x)
    paths = [os.path.join(folder, n) for n in ("random.onnx", "random.in", "random.out")]
    onnx.save(model, paths[0])
    x.tofile(paths[1])
    size = str(m.shape[2])
    p = subprocess.run([tool, "run", *paths, "classifier", size], capture_output=True, text=True)
    if p.returncode:
        return p.stderr.strip()
    scale = max(1.0, float(np.abs(want).max()))
    got = np.fromfile(paths[2], np.float32).reshape(want.shape)
    if not np.abs(got - want).max() <= 2e-4 * scale:
        return f"off by {np.abs(got - want).max():g} of {scale:g}"
    again = os.path.join(folder, "again.onnx")
    p = subprocess.run([tool, "rewrite", paths[0], str(13 if seed % 2 else 17), again],
                       capture_output=True, text=True)
    if p.returncode:
        return "rewrite: " + p.stderr.strip()
    written = onnx.load(again)
    onnx.checker.check_model(written, full_check=True)
    nchw = x.transpose(0, 3, 1, 2) if m.shape[3] == 3 else x
    got = run_ort(written, np.ascontiguousarray(nchw))
    if not np.abs(got - want).max() <= 2e-4 * scale:
        return f"written again: off by {np.abs(got - want).max():g} of {scale:g}"
    return None


def main():
    tool, folder = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    failed = 0
    for seed in range(first, first + count):
        try:
            reason = compare(tool, folder, seed)
        except Exception as e:
            reason = f"{type(e).__name__}: {e}"
        if reason:
            failed += 1
            print(f"FAILED random model {seed}: {reason[:500]}")
    print(f"random models: {count - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
