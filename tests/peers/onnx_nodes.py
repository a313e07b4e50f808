#!/usr/bin/env python3
"""The node tests of the onnx package, run by our reader and engine.

onnx_nodes.py KD_ONNX_RUN FOLDER

A case's computed input is its first one of floats; every other input becomes an initialiser, as
weights, shapes and axes are in models. A case without such an input tests folding: its result is
added to an input of zeros. Models of opsets above 17 are marked as 17 where the operator is the
same there but for its types. Each case is tried with its first axis as the batch and then as one
picture without a batch; a case that both refuse is skipped with the second reason.

Exit code 1 if a case fails, if an operator has no case that passes, or if fewer pass than did."""
import collections
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

COMPUTED = """Conv BatchNormalization Relu LeakyRelu Clip Sigmoid Tanh HardSigmoid HardSwish Softmax
Add Sub Mul Div MaxPool AveragePool GlobalAveragePool ReduceMean Gemm MatMul Flatten Reshape
Transpose Squeeze Unsqueeze Concat Slice Pad Identity Dropout Sum GlobalMaxPool Split""".split()
FOLDED = "Constant Shape Gather Cast ConstantOfShape Range".split()
LEAST_PASSED = 220
TOP_OPSET = 17


def lowered(model):
    """The model marked as opset 17, or a reason why it cannot be."""
    m = onnx.ModelProto()
    m.CopyFrom(model)
    version = next(o.version for o in m.opset_import if o.domain in ("", "ai.onnx"))
    if version <= TOP_OPSET:
        return m, None
    for node in m.graph.node:
        if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
            return None, "Pad with axes is younger than opset 17"
    del m.opset_import[:]
    m.opset_import.append(helper.make_opsetid("", TOP_OPSET))
    m.ir_version = min(m.ir_version, 8)
    return m, None


def move_axes(m, values):
    """ReduceMean has its axes as an attribute until opset 17."""
    for node in m.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) > 1:
            axes = values.get(node.input[1])
            del node.input[1:]
            if axes is not None and axes.size:
                node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))


def as_array(value):
    """Numbers of any kind as an array; None for sequences and optionals."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else None


def prepare(m, inputs, output, expected):
    """Folds inputs; returns the array that is fed, or a reason."""
    values = dict(zip([i.name for i in m.graph.input], map(as_array, inputs)))
    move_axes(m, values)
    used = {n for node in m.graph.node for n in node.input}
    names = [i.name for i in m.graph.input if i.name in used]
    if any(values[n] is None for n in names):
        return None, "an input is no tensor"
    fed = next((n for n in names if values[n].dtype == np.float32), None)
    if m.graph.node[0].op_type in FOLDED:
        fed = None
    elif fed is None and any(values[n].dtype in (np.float64, np.float16) for n in names):
        return None, "inputs of other floats than float32"
    infos = {i.name: i for i in m.graph.input}
    del m.graph.input[:]
    for n in names:
        if n != fed:
            m.graph.initializer.append(numpy_helper.from_array(values[n], n))
    if fed is not None:
        if 0 in values[fed].shape:
            return None, "an input without elements"
        infos[fed].type.tensor_type.shape.CopyFrom(
            helper.make_tensor_value_info(fed, TensorProto.FLOAT, values[fed].shape)
            .type.tensor_type.shape)
        m.graph.input.append(infos[fed])
        data = values[fed]
    else:
        if expected.size == 0:
            return None, "a result without elements"
        data = np.zeros(expected.shape, np.float32)
        m.graph.input.append(
            helper.make_tensor_value_info("zeros", TensorProto.FLOAT, data.shape))
        m.graph.node.append(helper.make_node("Cast", [output], ["as_float"], to=TensorProto.FLOAT))
        m.graph.node.append(helper.make_node("Add", ["zeros", "as_float"], ["added"]))
        output = "added"
    if data.shape == expected.shape and m.graph.node[0].op_type == "Cast":
        # Casts are tried on infinity and NaN too, which our parameters cannot be.
        odd = ~np.isfinite(expected.astype(np.float32))
        for t in m.graph.initializer:
            array = numpy_helper.to_array(t).copy()
            array[odd] = 1
            t.CopyFrom(numpy_helper.from_array(array, t.name))
        expected[odd] = 1
    del m.graph.output[:]
    m.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return np.ascontiguousarray(data), None


def run(tool, folder, m, data, expected, rtol):
    """(True, "") passed; (False, reason) failed; (None, reason) refused."""
    paths = [os.path.join(folder, n) for n in ("case.onnx", "case.in", "case.out")]
    with open(paths[0], "wb") as f:
        f.write(m.SerializeToString())
    data.astype(np.float32).tofile(paths[1])
    for use in ("any", "whole"):
        p = subprocess.run([tool, "run", *paths, use], capture_output=True, text=True)
        reason = p.stderr.strip().split(paths[0] + ": ")[-1]
        if p.returncode == 2:
            continue
        if p.returncode != 0:
            return False, reason[:300]
        got = np.fromfile(paths[2], np.float32)
        want = expected.astype(np.float32).ravel()
        if got.size != want.size:
            return False, f"{got.size} values, {want.size} were expected"
        worst = float(np.max(np.abs(got - want) - rtol * np.abs(want), initial=-1))
        return (True, "") if worst <= 1e-5 else (False, f"off by {worst:g} ({use})")
    return None, reason


def main():
    tool, folder = sys.argv[1:3]
    known = set(COMPUTED + FOLDED)
    passed, by_op = 0, collections.Counter()
    failed, skipped = [], []
    for case in load_model_tests(kind="node"):
        model = case.model or onnx.load(os.path.join(case.model_dir, "model.onnx"))
        ops = [n.op_type for n in model.graph.node]
        if len(ops) != 1 or ops[0] not in known or model.graph.node[0].domain not in ("", "ai.onnx"):
            continue
        sets = case.data_sets or [load_set(case.model_dir, model)]
        inputs, outputs = sets[0]
        for k, expected in enumerate(outputs):
            name = case.name + (f" output {k}" if k else "")
            m, reason = lowered(model)
            data = None
            expected = as_array(expected)
            expected = None if expected is None else expected.copy()
            if m is not None and expected is None:
                m, reason = None, "a result that is no tensor"
            if m is not None and k and ops[0] != "Split":
                m, reason = None, "a second output"
            if m is not None:
                data, reason = prepare(m, inputs, model.graph.output[k].name, expected)
            if data is None:
                skipped.append((name, reason))
                continue
            ok, reason = run(tool, folder, m, data, expected, max(case.rtol, 1e-4))
            if ok:
                passed += 1
                by_op[ops[0]] += 1
            else:
                (failed if ok is False else skipped).append((name, reason))
    for name, reason in skipped:
        print(f"skipped {name}: {reason}")
    for name, reason in failed:
        print(f"FAILED {name}: {reason}")
    for op in COMPUTED + FOLDED:
        print(f"  {op:20} {by_op[op]} passed")
    missing = [op for op in COMPUTED + FOLDED if not by_op[op]]
    print(f"node tests of onnx {onnx.__version__}: {passed} passed, {len(failed)} failed, "
          f"{len(skipped)} skipped")
    if missing:
        print("no case passed for", ", ".join(missing))
    if passed < LEAST_PASSED:
        print(f"fewer than {LEAST_PASSED} passed")
    return 1 if failed or missing or passed < LEAST_PASSED else 0


def load_set(folder, model):
    def tensors(kind, infos):
        out = []
        for i, info in enumerate(infos):
            path = os.path.join(folder, "test_data_set_0", f"{kind}_{i}.pb")
            if not info.type.HasField("tensor_type"):
                out.append(None)
                continue
            t = TensorProto()
            with open(path, "rb") as f:
                t.ParseFromString(f.read())
            out.append(numpy_helper.to_array(t))
        return out
    return tensors("input", model.graph.input), tensors("output", model.graph.output)


if __name__ == "__main__":
    sys.exit(main())
