"""gRPC's C core, by Python, as a client of the network tests: calls of every kind to the server of gRPC's interoperability tests.

Its messages are written here by hand: they are a few fields, and the package has no compiler for them."""

import queue
import sys

import grpc

SERVICE = "/grpc.testing.TestService/"


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def payload(size):
    return field(2, bytes(size))


def expect(said, wanted):
    if said != wanted:
        sys.exit(f"got {said!r:.200}, not {wanted!r:.200}")


def unary(channel):
    call = channel.unary_unary(SERVICE + "UnaryCall")
    request = field(2, 314_159) + field(3, payload(271_828))
    answer, how = call.with_call(request, metadata=[("x-grpc-test-echo-initial", "echoed")], timeout=10)
    expect(answer, field(1, payload(314_159)))
    expect(dict(how.initial_metadata())["x-grpc-test-echo-initial"], "echoed")
    expect(how.code(), grpc.StatusCode.OK)


def server_streaming(channel):
    sizes = [31_415, 9, 2_653, 58_979]
    request = b"".join(field(2, field(1, size)) for size in sizes)
    answers = channel.unary_stream(SERVICE + "StreamingOutputCall")(request, timeout=10)
    expect(list(answers), [field(1, payload(size)) for size in sizes])


def client_streaming(channel):
    sizes = [27_182, 8, 1_828, 45_904]
    requests = (field(1, payload(size)) for size in sizes)
    expect(channel.stream_unary(SERVICE + "StreamingInputCall")(requests, timeout=10), field(1, sum(sizes)))


def both_ways(channel):
    sizes, asked = [31_415, 9, 2_653], queue.Queue()
    answers = channel.stream_stream(SERVICE + "FullDuplexCall")(iter(asked.get, None), timeout=10)
    for size in sizes:
        # Each waits for the answer to the one before.
        asked.put(field(2, field(1, size)) + field(3, payload(8)))
        expect(next(answers), field(1, payload(size)))
    asked.put(None)
    expect(list(answers), [])


def status(channel):
    request = field(7, field(1, 2) + field(2, "test\twith Unicode \u263a".encode()))
    try:
        channel.unary_unary(SERVICE + "UnaryCall")(request, timeout=10)
    except grpc.RpcError as error:
        expect((error.code(), error.details()), (grpc.StatusCode.UNKNOWN, "test\twith Unicode \u263a"))
    else:
        sys.exit("the call did not fail")


target, name, authority = sys.argv[1:4]
options = [("grpc.default_authority", name), ("grpc.ssl_target_name_override", name)]
if authority == "-":
    opened = grpc.insecure_channel(target, options)
else:
    with open(authority, "rb") as pem:
        opened = grpc.secure_channel(target, grpc.ssl_channel_credentials(pem.read()), options)
with opened as channel:
    for test in [unary, server_streaming, client_streaming, both_ways, status]:
        test(channel)
        print(test.__name__, "passed")
