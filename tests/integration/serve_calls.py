#!/usr/bin/python3
"""Calls of `distill serve` as a foreign client makes them: serve_calls.py ADDRESS PART ARGUMENT...

The message types come from the server's own reflection. Parts:
  same NAME PREDICTIONS   files and pixels of the pictures in `distill predict -o json --top 5` lines: the same
                          answers, raw and in contents, from 16 threads at once
  hostile NAME            what must be refused, and how; the server lives on
  full NAME               more requests than it takes: some refused, all others answered
  drain NAME PID          a signal while requests run: they are answered, a new one is refused
  pictures FOLDER         writes some there
  reach OWN CA            over TLS with the server's CA; OWN: a client's certificate and key, "" = none"""
import json
import os
import signal
import struct
import sys
import threading
import time
import zlib

import grpc

sys.path.insert(0, os.path.dirname(__file__))
import call

SERVICE = "inference.GRPCInferenceService"
LARGE = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20),
         ("grpc.enable_http_proxy", 0)]


class Server:
    def __init__(self, address, credentials=None):
        self.channel = (grpc.secure_channel(address, credentials, LARGE) if credentials
                        else grpc.insecure_channel(address, LARGE))
        self.pool = call.types(self.channel, SERVICE)

    def message(self, name):
        return call.message_class(self.pool, self.pool.FindMessageTypeByName("inference." + name))

    def call(self, method, request, **options):
        m = self.pool.FindServiceByName(SERVICE).FindMethodByName(method)
        reply = call.message_class(self.pool, m.output_type)
        stub = self.channel.unary_unary(f"/{SERVICE}/{method}", response_deserializer=reply.FromString,
                                        request_serializer=lambda r: r if isinstance(r, bytes) else r.SerializeToString())
        return stub(request, timeout=60, **options)

    def request(self, model, name, datatype, shape, raw=None, **contents):
        r = self.message("ModelInferRequest")(model_name=model)
        tensor = r.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is not None:
            r.raw_input_contents.append(raw)
        for field, values in contents.items():
            getattr(tensor.contents, field).extend(values)
        return r

    def infer(self, *arguments, **options):
        return self.call("ModelInfer", self.request(*arguments, **options))


def values(reply, name):
    at = [o.name for o in reply.outputs].index(name)
    tensor = reply.outputs[at]
    n = tensor.shape[0] * tensor.shape[1]
    if reply.raw_output_contents:
        return list(struct.unpack(f"<{n}f", reply.raw_output_contents[at]))
    return list(tensor.contents.fp32_contents)


def expect(code, text, do):
    try:
        do()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details(), text)
        assert text in error.details(), (error.details(), text)
        return
    raise AssertionError(f"no {code} for: {text}")


def png_pixels(path):
    """Of an 8-bit RGB PNG whose rows are not filtered."""
    data, at, packed = open(path, "rb").read(), 8, b""
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            w, h = struct.unpack(">II", data[at + 8:at + 16])
        if kind == b"IDAT":
            packed += data[at + 8:at + 8 + n]
        at += n + 12
    rows = zlib.decompress(packed)
    step = 3 * w + 1
    assert all(rows[y * step] == 0 for y in range(h)), "a filtered PNG"
    return b"".join(rows[y * step + 1:(y + 1) * step] for y in range(h))


def same(server, name, predictions):
    rows = [json.loads(line) for line in open(predictions)]
    meta = server.call("ModelMetadata", server.message("ModelMetadataRequest")(name=name))
    (tensor,) = meta.inputs
    shape = list(tensor.shape)
    assert tensor.datatype == "FP32" and shape[0] == -1, meta
    nchw = shape[1] == 3
    failures = []

    def pixels(path):
        rgb = [b / 255 for b in png_pixels(path)]
        if nchw:
            rgb = [rgb[3 * i + c] for c in range(3) for i in range(len(rgb) // 3)]
        return rgb

    def one(k):
        for row in rows[k::16]:
            data = open(row["picture"], "rb").read()
            floats = pixels(row["picture"])
            packed = struct.pack(f"<{len(floats)}f", *floats)
            answers = [
                server.infer(name + "_image", "image", "BYTES", [1], raw=struct.pack("<I", len(data)) + data),
                server.infer(name + "_image", "image", "BYTES", [1], bytes_contents=[data]),
                server.infer(name, "pixels", "FP32", [1] + shape[1:], raw=packed),
                server.infer(name, "pixels", "FP32", [1] + shape[1:], fp32_contents=floats),
            ]
            logits = [values(a, "logits") for a in answers]
            assert all(l == logits[0] for l in logits), (row["picture"], logits)
            for guess in row["guesses"]:
                p = values(answers[0], "probabilities")[guess["index"]]
                assert abs(p - guess["probability"]) < 1e-6, (row, p)
            # The classification extension, and an id that comes back.
            r = server.request(name + "_image", "image", "BYTES", [2], bytes_contents=[data, data])
            r.id = row["picture"]
            r.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
            best = server.call("ModelInfer", r)
            texts = [t.decode().split(":", 2) for t in best.outputs[0].contents.bytes_contents]
            assert best.id == r.id and list(best.outputs[0].shape) == [2, 2], best
            want = [(str(g["index"]), g["class"]) for g in row["guesses"][:2]] * 2
            assert [(t[1], t[2]) for t in texts] == want, (texts, want)

    def guarded(k):
        try:
            one(k)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    print(len(rows), "pictures, four ways each")


def hostile(server, name):
    (tensor,) = server.call("ModelMetadata", server.message("ModelMetadataRequest")(name=name)).inputs
    shape = list(tensor.shape)[1:]
    n = shape[0] * shape[1] * shape[2]
    good = struct.pack(f"<{n}f", *([0.5] * n))
    bad, limit, missing = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED,
                           grpc.StatusCode.NOT_FOUND)

    def pixels(dims, **options):
        return lambda: server.infer(name, "pixels", "FP32", dims, **options)

    def files(dims, **options):
        return lambda: server.infer(name + "_image", "image", "BYTES", dims, **options)

    def changed(change, model=name):
        def do():
            r = server.request(model, "pixels", "FP32", [1] + shape, raw=good)
            change(r)
            server.call("ModelInfer", r)
        return do

    huge = 1 << 62
    expect(missing, "no model", lambda: server.infer("nobody", "pixels", "FP32", [1] + shape, raw=good))
    expect(missing, "no version", changed(lambda r: setattr(r, "model_version", "9")))
    expect(bad, "one input", lambda: server.infer(name, "input", "FP32", [1] + shape, raw=good))
    expect(bad, "one input", changed(lambda r: r.inputs.add(name="pixels", datatype="FP32", shape=[1] + shape)))
    expect(bad, "one input", changed(lambda r: r.inputs.pop()))
    expect(bad, "is FP32", lambda: server.infer(name, "pixels", "FP16", [1] + shape, raw=good))
    for dims in ([1], shape, [1] + shape + [1], [1, shape[0], shape[1], 4], [-1] + shape, [1, -1, -1, -1],
                 [huge, huge, huge, huge], [1, huge, huge, 3], []):
        expect(bad, "has the shape", pixels(dims, raw=good))
    expect(bad, "pictures in a request", pixels([0] + shape, raw=b""))
    expect(bad, "pictures in a request", pixels([huge] + shape, raw=good))
    expect(bad, "pictures in a request", pixels([33] + shape, raw=good * 33))
    expect(bad, "raw bytes", pixels([1] + shape, raw=good[:-1]))
    expect(bad, "raw bytes", pixels([1] + shape, raw=b""))
    expect(bad, "raw bytes", pixels([2] + shape, raw=good))
    expect(bad, "fp32_contents", pixels([1] + shape))
    expect(bad, "fp32_contents", pixels([1] + shape, fp32_contents=[0.5] * (n - 1)))
    expect(bad, "fp32_contents", pixels([1] + shape, int_contents=[1] * n))
    expect(bad, "either raw or", pixels([1] + shape, raw=good, fp32_contents=[0.5] * n))
    expect(bad, "either raw or", changed(lambda r: r.raw_input_contents.append(good)))
    for number in (float("nan"), float("inf"), -float("inf")):
        expect(bad, "not a finite number", pixels([1] + shape, raw=good[:-4] + struct.pack("<f", number)))
        expect(bad, "not a finite number", pixels([1] + shape, fp32_contents=[number] * n))
    expect(bad, "no output", changed(lambda r: r.outputs.add(name="labels")))
    expect(bad, "twice", changed(lambda r: [r.outputs.add(name="logits") for _ in range(2)]))
    expect(bad, "unknown parameter", changed(lambda r: r.outputs.add(name="logits").parameters["x"].SetInParent()))
    expect(bad, "unknown parameter", changed(lambda r: r.inputs[0].parameters["shared_memory_region"].SetInParent()))
    expect(bad, "number of classes",
           changed(lambda r: setattr(r.outputs.add(name="logits").parameters["classification"], "int64_param", -1)))
    expect(limit, "more than", changed(lambda r: [r.raw_input_contents.append(b"") for _ in range(20)]))
    expect(limit, "more than", changed(lambda r: r.inputs[0].shape.extend([1] * 100)))
    expect(bad, "picture 1", files([2], bytes_contents=[PNG, b"no picture"]))
    expect(bad, "behind its length", files([2], raw=struct.pack("<I", len(PNG)) + PNG))
    expect(bad, "behind its length", files([1], raw=struct.pack("<I", 1 << 31) + PNG))
    expect(bad, "behind its length", files([1], raw=b"\1"))
    expect(bad, "elements in bytes_contents", files([3], bytes_contents=[PNG]))
    expect(limit, "larger than", files([1], bytes_contents=[b"\0" * (17 << 20)]))
    expect(grpc.StatusCode.DATA_LOSS, "", lambda: server.call("ModelInfer", b"\x2a\xff\xff\xff\xff\x0f"))
    expect(missing, "no model", lambda: server.call("ModelReady", server.message("ModelReadyRequest")(name="x")))
    assert len(values(pixels([1] + shape, raw=good)(), "logits")) > 1
    print("refused, and alive")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(side, pixel):
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(side)) for y in range(side))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


PNG = png(8, lambda x, y: (x * 30, y * 30, 7))


def slow(server, name):
    """A request that takes a while."""
    return server.request(name + "_image", "image", "BYTES", [32],
                          bytes_contents=[png(1000, lambda x, y: (x % 256, y % 256, 9))] * 32)


def full(server, name):
    request, codes, lock = slow(server, name), [], threading.Lock()

    def one():
        try:
            server.call("ModelInfer", request)
            code = None
        except grpc.RpcError as error:
            code = error.code()
        with lock:
            codes.append(code)

    threads = [threading.Thread(target=one) for _ in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    refused = codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refused > 0 and codes.count(None) > 0 and refused + codes.count(None) == 24, codes
    print(codes.count(None), "answered,", refused, "refused")


def drain(server, name, pid):
    m = server.pool.FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
    stub = server.channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=lambda r: r.SerializeToString(),
                                      response_deserializer=call.message_class(server.pool, m.output_type).FromString)
    request = slow(server, name)
    running = [stub.future(request, timeout=60) for _ in range(3)]
    time.sleep(0.3)
    assert not all(f.done() for f in running), "too fast to be interrupted"
    os.kill(int(pid), signal.SIGTERM)
    for f in running:
        assert f.result().outputs[0].shape[0] == 32
    expect(grpc.StatusCode.UNAVAILABLE, "", lambda: server.call("ModelInfer", request))
    print("answered what ran")


def reach(address, own, ca):
    def read(path):
        with open(path, "rb") as f:
            return f.read()

    mine = read(own) if own else None
    server = Server(address, grpc.ssl_channel_credentials(read(ca), mine, mine))
    assert server.call("ServerLive", server.message("ServerLiveRequest")()).live


def write_pictures(folder):
    for i in range(24):
        with open(os.path.join(folder, f"p{i}.png"), "wb") as f:
            f.write(png(32, lambda x, y: ((x * (i + 1) * 5) % 256, (y * 7 + i * 10) % 256, (x * y + i * 40) % 256)))


def main():
    address, part, *rest = sys.argv[1:]
    if part == "pictures":
        return write_pictures(*rest)
    if part == "reach":
        return reach(address, *rest)
    server = Server(address)
    {"same": same, "hostile": hostile, "full": full, "drain": drain}[part](server, *rest)


if __name__ == "__main__":
    main()
