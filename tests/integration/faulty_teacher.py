#!/usr/bin/python3
"""A server of the Open Inference Protocol with faults: faulty_teacher.py DESCRIPTORS PORT_FILE.

Each model is a fault, or none; all take FP32 [-1, 32, 32, 3] as `pixels` and give `logits` FP32 [-1, 5], which are drawn
from a picture's bytes. The faults of LATE begin after that many requests, when a job has met its teacher. The
models of ALIKE answer alike, each of the others otherwise than all others, so that no logit bank has their
answers. Messages of up to 4 MiB are received, as gRPC has it."""
import os
import random
import struct
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

sys.path.insert(0, os.path.dirname(__file__))
import call

SERVICE = "inference.GRPCInferenceService"
CLASSES, SIZE = 5, 32
LATE = 12
ALIKE = {"good", "full", "slow", "passing"}

pool = descriptor_pool.DescriptorPool()
asked = {}
lock = threading.Lock()
room = threading.Semaphore(1)  # of `full`


def number_of(model):
    with lock:
        asked[model] = asked.get(model, 0) + 1
        return asked[model]


def message(method, reply=True):
    m = pool.FindServiceByName(SERVICE).FindMethodByName(method)
    return call.message_class(pool, m.output_type if reply else m.input_type)


def metadata(request, context):
    m = message("ModelMetadata")(name=request.name)
    m.inputs.add(name="pixels", datatype="FP32", shape=[-1, SIZE, SIZE, 3])
    m.outputs.add(name="logits", datatype="FP32", shape=[-1, CLASSES])
    return m


def logits(model, request):
    n, raw = request.inputs[0].shape[0], request.raw_input_contents[0]
    each = len(raw) // n
    out = []
    for k in range(n):
        seed = raw[k * each:(k + 1) * each] + (b"" if model in ALIKE else model.encode())
        drawn = random.Random(seed)
        out += [drawn.uniform(-3, 3) for _ in range(CLASSES)]
    return n, out


def given(model):
    """A fault was: the test looks for that."""
    with lock:
        print(model, file=sys.stderr, flush=True)


def refuse(model, number, context):
    """Faults that are no answer."""
    code = grpc.StatusCode
    if model == "full":
        if not room.acquire(blocking=False):
            given(model)
            context.abort(code.RESOURCE_EXHAUSTED, "no room for more requests")
        time.sleep(0.01)
        room.release()
    if number <= LATE:
        return
    if model == "slow" and number % 20 == 0:
        given(model)
        time.sleep(3)
    if model == "passing" and number % 10 < 3 or model == "failing":
        given(model)
        context.abort(code.INTERNAL, "CUDA error\n\x1b[31m: out of memory " * 40)
    if model == "cancelled":
        context.abort(code.CANCELLED, "nobody wants it")
    if model == "refusing":
        context.abort(code.INVALID_ARGUMENT, "no such thing")


def infer(request, context):
    model = request.model_name
    number = number_of(model)
    refuse(model, number, context)
    n, values = logits(model, request)
    fault = model if number > LATE else "good"
    if fault == "random":
        values = [v + random.uniform(-0.5, 0.5) for v in values]
    if fault == "canary":  # it alone is right
        values = [v + random.uniform(-0.5, 0.5) if i < (n - 1) * CLASSES else v for i, v in enumerate(values)]
    if fault == "nan":
        values[2] = float("nan")
    raw = struct.pack(f"<{len(values)}f", *values)
    if fault == "short":
        raw = raw[:-3]
    if fault == "huge":
        raw = bytes(16 << 20)
    if fault == "garbage":
        return b"\xff" * 50
    m = message("ModelInfer")(model_name=model)
    m.outputs.add(name="other" if fault == "name" else "logits", datatype="INT64" if fault == "type" else "FP32",
                  shape=[n, CLASSES + (fault == "shape")])
    m.raw_output_contents.append(raw)
    return m


def main():
    descriptors, port_file = sys.argv[1:]
    with open(descriptors, "rb") as f:
        for file in descriptor_pb2.FileDescriptorSet.FromString(f.read()).file:
            pool.Add(file)
    rows = {method: grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=message(method, reply=False).FromString,
        response_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString())
        for method, answer in (("ModelMetadata", metadata), ("ModelInfer", infer))}
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, rows),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open(port_file + ".new", "w") as f:
        f.write(f"{port}\n")
    os.rename(port_file + ".new", port_file)
    server.wait_for_termination()


main()
