"""Triton's client asks `distill serve`: serve_triton.py ADDRESS NAME PREDICTIONS DESCRIPTOR_SET.

PREDICTIONS are lines of `distill predict -o json --top 5`."""
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2


def compare(ours, theirs, path):
    """Every field of ours has the number, type and name that Triton gives it."""
    known = {f.name: f for f in theirs.field}
    for f in ours.field:
        t = known[f.name]
        assert (f.number, f.type, f.label, f.type_name) == (t.number, t.type, t.label, t.type_name), (path, f, t)
    nested = {n.name: n for n in theirs.nested_type}
    for n in ours.nested_type:
        compare(n, nested[n.name], path + "." + n.name)


def compare_all(path):
    files = descriptor_pb2.FileDescriptorSet.FromString(open(path, "rb").read()).file
    (ours,) = [f for f in files if f.package == "inference"]
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    assert theirs.package == "inference"
    messages = {m.name: m for m in theirs.message_type}
    for m in ours.message_type:
        compare(m, messages[m.name], m.name)
    methods = {m.name: m for m in theirs.service[0].method}
    assert ours.service[0].name == theirs.service[0].name
    for m in ours.service[0].method:
        t = methods[m.name]
        assert (m.input_type, m.output_type) == (t.input_type, t.output_type), (m, t)
    return len(ours.message_type)


def main():
    address, name, predictions, descriptors = sys.argv[1:]
    print(compare_all(descriptors), "messages as Triton has them")
    rows = [json.loads(line) for line in open(predictions)]
    client = triton.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
    assert client.get_server_metadata(as_json=True)["extensions"] == ["classification"]
    shape = [int(n) for n in client.get_model_metadata(name, as_json=True)["inputs"][0]["shape"]]

    # Pixels, and the two outputs of one request.
    pixels = triton.InferInput("pixels", [4] + shape[1:], "FP32")
    pixels.set_data_from_numpy(np.random.default_rng(1).random([4] + shape[1:], dtype=np.float32))
    got = client.infer(name, [pixels], request_id="x1")
    logits, p = got.as_numpy("logits").astype(np.float64), got.as_numpy("probabilities")
    e = np.exp(logits - logits.max(1, keepdims=True))
    assert got.get_response().id == "x1" and np.abs(e / e.sum(1, keepdims=True) - p).max() < 1e-6

    # Files in batches of 8, by many calls at once.
    answers = queue.Queue()
    parts = [rows[at:at + 8] for at in range(0, len(rows), 8)]
    for k, part in enumerate(parts):
        files = triton.InferInput("image", [len(part)], "BYTES")
        files.set_data_from_numpy(np.array([open(r["picture"], "rb").read() for r in part], dtype=object))
        asked = [triton.InferRequestedOutput("logits"), triton.InferRequestedOutput("probabilities", class_count=2)]
        client.async_infer(name + "_image", [files], lambda result, error, k=k: answers.put((k, result, error)),
                           outputs=asked)
    for _ in parts:
        k, result, error = answers.get(timeout=60)
        assert error is None, error
        part = parts[k]
        top = result.as_numpy("logits").argmax(1)
        for row, best, texts in zip(part, top, result.as_numpy("probabilities")):
            guess = row["guesses"][0]
            value, index, label = texts[0].decode().split(":", 2)
            assert best == guess["index"] == int(index) and label == guess["class"], (row, best, texts)
            assert abs(float(value) - guess["probability"]) < 1e-6
    print(len(rows), "pictures as `distill predict` names them")


main()
