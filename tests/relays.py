"""Play both sides of a relay: the peer that connects to it, and the backend behind it."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from contextlib import contextmanager

from inetd import DEADLINE, fork
from looped import in_loop

from superd.handlers import redirect

MAINS = {"process": redirect.main, "loop": in_loop(redirect)}
ODD = 500_009
"""The bytes of which xinetd's redirect passes on none when the peer has half-closed."""
LINGER_NOT = struct.pack("ii", 1, 0)

UNKNOWN = "x" * 64 + ".invalid"
"""A name that no name server is asked for: its label is too long (RFC 1035 2.3.4)."""


def pattern(size, step):
    return (bytes(range(0, 256, step)) * (size // 64))[:size]


def end_of(served):
    """Return the word of the line that says how it ended."""
    return re.search(r" end=(\S+)\n", served.log)[1]


def text_of(address):
    return f"{address[0]}:{address[1]}"


@contextmanager
def listening(path=None):
    """Give a backend's listener and how a relay is told of it."""
    if path is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(DEADLINE)
            yield listener, text_of(listener.getsockname())
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)  # a service's user connects
        listener.listen()
        listener.settimeout(DEADLINE)
        yield listener, f"unix:{path}"
    path.unlink()


@contextmanager
def relayed(main, *flags, kind="tcp", path=None, early=b""):
    """Give the peer's and the backend's end of a relayed connection."""
    with (
        listening(path) as (listener, address),
        fork(main, "--to", address, *flags, kind=kind, early=early) as served,
    ):
        backend = listener.accept()[0]
        backend.settimeout(DEADLINE)
        with backend:
            yield served, backend
            served.wait()
        log = served.log.replace("CRASH: CancelledError()", "")
        assert not {"LEAK:", "CRASH:", "bug:"}.intersection(log.split()), log


def reset(sock):
    """End a connection by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    sock.close()


def is_reset(sock):
    """Read to the end; say whether that is a reset, and what came before it."""
    data = b""
    try:
        while more := sock.recv(1 << 16):
            data += more
    except ConnectionResetError:
        return True, data
    return False, data


@contextmanager
def dead_end():
    """Give an address where nobody listens, and nobody else can meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield text_of(sock.getsockname())


@contextmanager
def silent_listener():
    """Give an address that drops every SYN: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            while True:
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
                if not select.select([], [sock], [], 0.2)[1]:
                    break
            yield listener.getsockname()
        finally:
            for sock in waiting:
                sock.close()


def exchange(ends):
    """Send and read on several sockets at once; `ends` is pairs of socket and bytes.

    Each is half-closed when its bytes are sent (None: it is already); returns what each
    has read to its end.
    """
    left = {sock: memoryview(data or b"") for sock, data in ends}
    got = {sock: bytearray() for sock, _ in ends}
    unended = {sock for sock, _ in ends}
    open_ = {sock for sock, data in ends if data is not None}
    until = time.monotonic() + DEADLINE
    while open_ or unended:
        assert time.monotonic() < until, {len(one) for one in got.values()}
        readable, writable, _ = select.select(unended, open_, [], 1)
        for sock in readable:
            data = sock.recv(1 << 16)
            got[sock] += data
            if not data:
                unended.remove(sock)
        for sock in writable:
            if left[sock]:
                left[sock] = left[sock][sock.send(left[sock], socket.MSG_DONTWAIT) :]
            if not left[sock]:
                sock.shutdown(socket.SHUT_WR)
                open_.remove(sock)
    return [bytes(got[sock]) for sock, _ in ends]


def flood(sock):
    """Send until nothing more fits for a while; returns how much did."""
    sock.settimeout(0.3)
    total = 0
    try:
        while True:
            total += sock.send(bytes(1 << 16))
    except TimeoutError:
        return total
    finally:
        sock.settimeout(DEADLINE)
