#!/usr/bin/python3
"""One unary call of service distill.v1.Jobs as a foreign client makes it: call.py METHOD JSON.

The message types come from the server's own reflection; the server is $DISTILL_SERVER. Prints the reply
as JSON with the field names of the .proto. Exit 0, or 1 with the status on standard error."""
import os
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(message, number):
    """Values of a length-delimited field; enough for a reflection reply, which has nothing else."""
    at = 0

    def read():
        nonlocal at
        n = shift = 0
        while True:
            b = message[at]
            at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n

    found = []
    while at < len(message):
        tag = read()
        if tag & 7 == 2:
            size = read()
            if tag >> 3 == number:
                found.append(message[at:at + size])
            at += size
        else:
            read()
    return found


def types(channel):
    symbol = b"distill.v1.Jobs"
    request = b"\x22" + varint(len(symbol)) + symbol  # file_containing_symbol
    call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    (reply,) = list(call(iter([request]), timeout=20))
    pool = descriptor_pool.DescriptorPool()
    for response in field(reply, 4):
        for blob in field(response, 1):
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(blob))
    return pool


def message_class(pool, descriptor):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def main():
    name, text = sys.argv[1:]
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 8 << 20)]
    with grpc.insecure_channel(os.environ["DISTILL_SERVER"], options) as channel:
        pool = types(channel)
        method = pool.FindServiceByName("distill.v1.Jobs").FindMethodByName(name)
        request = json_format.Parse(text, message_class(pool, method.input_type)())
        reply = message_class(pool, method.output_type)
        call = channel.unary_unary("/distill.v1.Jobs/" + name,
                                   request_serializer=lambda m: m.SerializeToString(),
                                   response_deserializer=reply.FromString)
        try:
            got = call(request, timeout=60)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    print(json_format.MessageToJson(got, preserving_proto_field_name=True,
                                    including_default_value_fields=True))


if __name__ == "__main__":
    main()
