"""Connections to an HTTPS port that ask for nothing they are let in for, held open: http_flood.py KIND PORT FILE.

idle: 200 that say nothing, opened once from 127.0.0.1, and left open by their maker until the end.
again: the same from 127.0.0.2, in four ways, each opened anew as soon as it is cut.
slow: three from 127.0.0.1 whose request comes a byte a second; FILE tells after how many seconds each was cut, or
lives."""
import select
import socket
import ssl
import sys
import time

kind, port, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ctx = ssl.create_default_context()
ctx.check_hostname = False
ctx.verify_mode = ssl.CERT_NONE
PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def dial(source="127.0.0.1", tls=False):
    s = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))
    return ctx.wrap_socket(s) if tls else s


def half_open(i):
    """Silent, in the middle of a TLS hello, in the middle of a head, after TLS."""
    way = i % 40  # TLS costs its maker as much as the server
    s = dial("127.0.0.2", tls=way in (2, 3))
    if way == 1:
        s.sendall(bytes.fromhex("16030100ff010000fb0303"))
    elif way == 2:
        s.sendall(PROBE[:20])
    return s


def is_cut(s):
    try:
        return not s.recv(1000)
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True


def tell(text):
    with open(file, "a") as f:
        f.write(text + "\n")


if kind == "idle":
    held = [dial() for _ in range(200)]
    tell("held")
    time.sleep(300)
elif kind == "again":
    held, anew, told = {}, 0, False
    while True:
        while len(held) < 200:
            try:
                s = half_open(len(held) + anew)
            except OSError:
                anew += 1
                continue
            s.setblocking(False)
            held[s.fileno()] = s
        if not told:
            tell("held")
        told = True
        for fd in select.select(list(held), [], [], 0.05)[0]:
            if is_cut(held[fd]):
                held.pop(fd).close()
                anew += 1
        time.sleep(0.05)
elif kind == "slow":
    slow, begun = [dial(tls=True) for _ in range(3)], time.monotonic()
    cut = {}
    for n in range(20):
        for i, s in enumerate(slow):
            if i in cut:
                continue
            s.setblocking(False)
            try:
                s.sendall(PROBE[n:n + 1])
            except OSError:
                pass
            if is_cut(s):
                cut[i] = time.monotonic() - begun
        time.sleep(1)
    for i in range(3):
        tell(f"{cut[i]:.0f}" if i in cut else "lives")
