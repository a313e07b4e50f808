#!/usr/bin/python3
"""A foreign gRPC client (Python's) against our server: grpc_peer.py PORT DESCRIPTOR_SET.

Health and reflection are called with messages from the descriptor set; the distill.v1 types come
from what reflection answers alone. Exit 0 = all well, 77 = no grpc module here (Debian:
python3-grpcio python3-protobuf), else a traceback tells."""
import sys

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError as missing:
    print(missing)
    sys.exit(77)

TIMEOUT = 20


def message_class(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def pool_of(files):
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool


def unary(channel, path, request, reply_class, **options):
    call = channel.unary_unary(path, request_serializer=lambda m: m.SerializeToString(),
                               response_deserializer=reply_class.FromString)
    return call(request, timeout=TIMEOUT, **options)


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError(f"expected {code}")


def check_health(channel, pool):
    request = message_class(pool, "grpc.health.v1.HealthCheckRequest")
    reply = message_class(pool, "grpc.health.v1.HealthCheckResponse")
    for service in ("", "distill.v1.Jobs", "grpc.health.v1.Health"):
        got = unary(channel, "/grpc.health.v1.Health/Check", request(service=service), reply)
        assert got.status == 1, got  # SERVING
    refused(lambda: unary(channel, "/grpc.health.v1.Health/Check", request(service="no.Such"), reply),
            grpc.StatusCode.NOT_FOUND)
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch",
                                 request_serializer=lambda m: m.SerializeToString(),
                                 response_deserializer=reply.FromString)
    for service, status in (("distill.v1.Jobs", 1), ("no.Such", 3)):
        stream = watch(request(service=service), timeout=TIMEOUT)
        assert next(stream).status == status
        stream.cancel()


def reflect(channel, pool, version, **questions):
    """One stream, one question after the other; the answers in order."""
    request = message_class(pool, f"grpc.reflection.{version}.ServerReflectionRequest")
    reply = message_class(pool, f"grpc.reflection.{version}.ServerReflectionResponse")
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                 request_serializer=lambda m: m.SerializeToString(),
                                 response_deserializer=reply.FromString)
    wanted = [request(**{kind: value}) for kind, values in questions.items() for value in values]
    answers = list(call(iter(wanted), timeout=TIMEOUT))
    assert len(answers) == len(wanted)
    for question, answer in zip(wanted, answers):
        assert answer.original_request == question
    return answers


def check_reflection(channel, pool, version):
    (services,) = reflect(channel, pool, version, list_services=[""])
    names = {s.name for s in services.list_services_response.service}
    assert {"distill.v1.Jobs", "distill.v1.Cluster", "distill.v1.Exchange", "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"} == names, names
    symbols = sorted(names) + ["distill.v1.Jobs.Submit", "distill.v1.Range"]
    files = {}
    for answer in reflect(channel, pool, version, file_containing_symbol=symbols):
        for blob in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(blob)
            files[file.name] = file
    found = pool_of(files.values())
    for name in names:
        assert found.FindServiceByName(name).methods
    (missing,) = reflect(channel, pool, version, file_containing_symbol=["distill.v1.Nothing"])
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    return found


def check_jobs(channel, found):
    """A call whose types were discovered."""
    method = found.FindServiceByName("distill.v1.Jobs").FindMethodByName("Info")
    request = message_class(found, method.input_type.full_name)
    reply = message_class(found, method.output_type.full_name)
    got = unary(channel, "/distill.v1.Jobs/Info", request(), reply)
    assert (got.version, got.protocol, got.epoch) == ("peer test", 3, 2**63 + 5), got
    details = refused(lambda: unary(channel, "/distill.v1.Jobs/Nothing", request(), reply),
                      grpc.StatusCode.UNIMPLEMENTED)
    assert "/distill.v1.Jobs/Nothing" in details, details
    # Compressed messages are not taken: they could unpack to anything.
    refused(lambda: unary(channel, "/distill.v1.Jobs/Info", request(), reply,
                          compression=grpc.Compression.Gzip), grpc.StatusCode.UNIMPLEMENTED)


def main():
    port, descriptor_set = sys.argv[1:]
    with open(descriptor_set, "rb") as file:
        pool = pool_of(descriptor_pb2.FileDescriptorSet.FromString(file.read()).file)
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        check_health(channel, pool)
        for version in ("v1", "v1alpha"):
            found = check_reflection(channel, pool, version)
        check_jobs(channel, found)
    print("the foreign client is content")


main()
