"""Sends what no browser would to an HTTP port, and checks what comes back: http_abuse.py PORT."""
import random
import re
import socket
import sys
import time

PORT = int(sys.argv[1])
HEAD = b"\r\nHost: localhost\r\n"


def talk(data, wait=10):
    """All that comes back until the server closes or nothing more comes."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=wait) as s:
        out = b""
        try:
            s.sendall(data)
            while True:
                got = s.recv(65536)
                if not got:
                    return out
                out += got
        except (TimeoutError, ConnectionError):
            return out


def status(data):
    m = re.match(rb"HTTP/1\.[01] (\d{3}) ", talk(data))
    return int(m.group(1)) if m else None


def ask(line, *headers):
    return status(line + HEAD + b"".join(h + b"\r\n" for h in headers) + b"Connection: close\r\n\r\n")


# Only reading, no bodies, only what is there.
for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"X" * 50):
    assert ask(method + b" /api/v1/jobs HTTP/1.1") == 405, method
assert ask(b"GET /healthz HTTP/1.1", b"Content-Length: 5") == 413
assert ask(b"GET /healthz HTTP/1.1", b"Transfer-Encoding: chunked") == 413
for path in (b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/api/v1/jobs/../../x", b"/web/app.js",
             b"/api/v1/jobs/zzzz", b"/api/v1/jobs/0123456789abcd", b"/api/v1/jobs//events", b"/app.js/x", b"/x%00"):
    assert ask(b"GET " + path + b" HTTP/1.1") == 404, path
assert ask(b"GET /api/v1/jobs/012 HTTP/1.1") == 404
assert ask(b"GET /api/v1/jobs?limit=-1 HTTP/1.1") == 400
assert ask(b"GET /api/v1/jobs?limit=99999999999999999999 HTTP/1.1") == 400
assert ask(b"GET /api/v1/jobs?limit=1x HTTP/1.1") == 400

# A page whose name was made to point here.
rebound = b"GET /api/v1/jobs HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
for host in (b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example:80", b"[::1].x"):
    assert status(rebound % host) == 403, host
for host in (b"localhost", b"LOCALHOST:1", b"127.0.0.1:8080", b"[::1]:99"):
    assert status(rebound % host) == 200, host

# Heads without end.
assert status(b"GET /" + b"a" * 100000 + b" HTTP/1.1" + HEAD + b"\r\n") in (400, 413, 414, 431, None)
assert ask(b"GET /healthz HTTP/1.1", *[b"X-%d: %s" % (i, b"y" * 100) for i in range(2000)]) in (400, 413, 431, None)

# Requests that were changed at random; what is wanted is that the coordinator lives, whatever it answers.
rng = random.Random(7)
seeds = [b"GET /api/v1/jobs HTTP/1.1", b"GET /api/v1/jobs/abcdef012345/events?from=1&limit=3 HTTP/1.1",
         b"GET /metrics HTTP/1.0", b"HEAD / HTTP/1.1", b"GET /api/v1/jobs/abcd/stream HTTP/1.1"]
for n in range(400):
    data = bytearray(rng.choice(seeds) + HEAD + b"Last-Event-ID: 5\r\nIf-None-Match: \"x\"\r\nConnection: close\r\n\r\n")
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        what = rng.random()
        if what < 0.4:
            data[at] = rng.randrange(256)
        elif what < 0.6:
            del data[at:at + rng.randint(1, 9)]
        elif what < 0.8:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 40)))
        else:
            data[at:at] = rng.choice([b"%", b"%00", b"\r\n", b"\0", b"/*", b"?limit=", b"GET / HTTP/1.1\r\n\r\n"])
        if not data:
            data = bytearray(b"\n")
    talk(bytes(data), wait=0.2)
assert ask(b"GET /healthz HTTP/1.1") == 200

# More connections than are taken: those beyond are closed, and there is room again after.
held = []
for _ in range(100):
    try:
        s = socket.create_connection(("127.0.0.1", PORT), timeout=5)
        s.sendall(b"GET /healthz HTTP/1.1\r\n")
        held.append(s)
    except OSError:
        break
for s in held:
    s.close()
for _ in range(100):
    if ask(b"GET /healthz HTTP/1.1") == 200:
        break
    time.sleep(0.1)
else:
    sys.exit("no room after all connections were closed")
print("as it should be")
