"""A handler is called again and again in one process, and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import sys

import pytest
from httpd_root import make_root
from inetd import fork
from looped import serve

TIMES = 300
GET = b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n"
INPUTS = {
    "chargen": [b"", b"x" * 1000],
    "daytime": [b"", b"hello?\r\n"],
    "discard": [b"", bytes(1000)],
    "echo": [b"", b"hello", bytes(range(256)) * 40],
    "finger": [b"", b"root\r\n", b"a@b\r\n", b"\0\r\n", b"x" * 600, b"-l --\r\n"],
    "httpd": [
        b"",
        GET + b"\r\n",
        GET + b"Connection: close\r\n\r\n",
        GET.replace(b"hello.txt", b"big.bin") + b"\r\n",
        b"GET / HTTP/1.0\r\n\r\n" * 3,
        GET.replace(b"hello.txt", b"a/../../etc/passwd") + b"\r\n",
        GET.replace(b"hello.txt", b"fifo") + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET " + b"x" * 9000,
        GET + b"Content-Length: 5\r\n\r\nhello",
    ],
    "time": [b"", b"\xff"],
}


def state(module):
    """List what one connection could leave to the next; not what a cache knows."""
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    umask = os.umask(0)
    os.umask(umask)
    return {
        "descriptors": {
            fd: os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        },
        "signals": {str(number): str(action) for number, action in signals.items()},
        "mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "cwd": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
        "argv": sys.argv,
        "modules": len(sys.modules),
        "options": str(module.OPTIONS),
    }


def connection(data, *, resets):
    """Make a connection whose peer has said everything already, and is gone or waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    if data:
        peer.sendall(data)
    if resets:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    else:
        peer.shutdown(socket.SHUT_WR)
    return peer, sock


def play(call, number, pieces, *, endless):
    """Serve one connection by `call`, whose fds 0 and 1 it is."""
    data = pieces[number % len(pieces)]
    peer, sock = connection(data, resets=endless or number % 3 == 2)
    with peer, sock:
        os.dup2(sock.fileno(), 0)
        os.dup2(sock.fileno(), 1)
        status = call()
    with open(os.devnull, "r+b") as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    return status


@pytest.mark.parametrize("mode", ["pool", "loop"])
@pytest.mark.parametrize("name", INPUTS)
def test_three_hundred_connections_leave_the_process_as_it_was(name, mode, tmp_path):
    module = importlib.import_module(f"superd.handlers.{name}")
    argv = {
        "finger": ["--builtin", "--min-uid", "0"],
        "httpd": ["--root", str(make_root(tmp_path))],
    }.get(name, [])

    def call():
        return module.main(argv) if mode == "pool" else serve(module, argv, [0])[0]

    def main(_argv):
        # Where a peer is left to linger over is the launcher's part.
        os.environ["SUPERD_SERVICE"] = "test"
        pieces, endless = INPUTS[name], name == "chargen"
        own = os.dup(0), os.dup(1)
        # The first round loads what is loaded late, and ignores SIGPIPE.
        for number in range(3 * len(pieces)):
            play(call, number, pieces, endless=endless)
        before = state(module)
        statuses = {
            play(call, number, pieces, endless=endless) for number in range(TIMES)
        }
        after = state(module)
        changed = {key: (before[key], after[key]) for key in before}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        for target, fd in enumerate(own):
            os.dup2(fd, target)
            os.close(fd)
        report = json.dumps({"changed": changed, "ends": sorted(statuses)})
        os.write(2, report.encode() + b"\n")
        return 0

    with fork(main) as served:
        assert served.wait() == 0
        report = json.loads(served.log.splitlines()[-1])
    assert report["changed"] == {}
    assert set(report["ends"]) <= {0, 110}
