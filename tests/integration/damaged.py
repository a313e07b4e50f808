#!/usr/bin/python3
"""One end of the control stream whose messages come damaged: damaged.py worker HOW JOB | damaged.py coordinator.

The worker joins under the name "damaged" and seals its messages as ours do. When it is told to prepare the job it says
what it has, HOW flipped, with another bit, or bare, without the checksum; then it prints the status that its stream
ends with. The coordinator prints its port, then "joined" for each worker that joins: the first is welcomed with a
flipped bit, the second is told something without a checksum, the third is left alone."""
import sys
from concurrent import futures

import grpc

from foreign_worker import Worker


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sealed(message):
    return message + b"\xa5\x06" + crc32c(message).to_bytes(4, "little")


class DamagedWorker(Worker):
    def __init__(self, how):
        super().__init__("damaged")
        self.how = how

    def bytes_of(self, message):
        plain = message.SerializeToString()
        if message.WhichOneof("kind") != "ready":
            return sealed(plain)
        return plain if self.how == "bare" else sealed(plain).replace(b"mlp", b"mlq")


def worker(how, job):
    end = DamagedWorker(how)
    try:
        for got in end.messages():
            if got.WhichOneof("kind") == "prepare" and got.prepare.job == job:
                end.send(end.ready(job))
    except grpc.RpcError as e:
        print(e.code().name, e.details(), flush=True)


class Coordinator(grpc.GenericRpcHandler):
    def __init__(self):
        self.joined = 0

    def service(self, call):
        return grpc.stream_stream_rpc_method_handler(self.control) if call.method.endswith("/Control") else None

    def control(self, messages, _):
        hello = next(messages)
        assert hello == sealed(hello[:-6]), hello
        print("joined", flush=True)
        self.joined += 1
        # protocol 3, epoch 1, a beat of 200 ms, a lease of 4 s
        welcome = sealed(b"\x0a\x0a\x08\x03\x10\x01\x18\xc8\x01\x20\xa0\x1f")
        yield welcome.replace(b"\xc8", b"\xc9") if self.joined == 1 else welcome
        if self.joined == 2:
            yield b"\x2a\x00"  # a release
        for _ in messages:
            pass


def coordinator():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Coordinator(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


worker(*sys.argv[2:]) if sys.argv[1] == "worker" else coordinator()
