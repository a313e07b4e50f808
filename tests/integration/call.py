#!/usr/bin/python3
"""One unary call of a service of distill.v1 as a foreign client makes it: call.py [SERVICE/]METHOD JSON.

SERVICE is Jobs unless it is named. The message types come from the server's own reflection; the server is
$DISTILL_SERVER, called over TLS with the login in $DISTILL_CREDENTIALS if that is set. The deadline is that of
$CALL_TIMEOUT in seconds, else 60. Prints the reply as JSON with the field names of the .proto. Exit 0, or 1 with the status on standard error."""
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


def connect(options):
    server, login = os.environ["DISTILL_SERVER"], os.environ.get("DISTILL_CREDENTIALS")
    if not login:
        return grpc.insecure_channel(server, options)

    def read(name):
        with open(os.path.join(login, name), "rb") as f:
            return f.read()

    own = read("identity.pem")
    return grpc.secure_channel(server, grpc.ssl_channel_credentials(read("ca.pem"), own, own), options)


def types(channel, service):
    symbol = service.encode()
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
    service, _, name = name.rpartition("/")
    service = "distill.v1." + (service or "Jobs")
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 8 << 20)]
    with connect(options) as channel:
        pool = types(channel, service)
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(text, message_class(pool, method.input_type)())
        reply = message_class(pool, method.output_type)
        call = channel.unary_unary(f"/{service}/{name}",
                                   request_serializer=lambda m: m.SerializeToString(),
                                   response_deserializer=reply.FromString)
        try:
            got = call(request, timeout=float(os.environ.get("CALL_TIMEOUT", "60")))
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    print(json_format.MessageToJson(got, preserving_proto_field_name=True,
                                    including_default_value_fields=True))


if __name__ == "__main__":
    main()
