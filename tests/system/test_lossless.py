"""Nothing a handler wrote is lost, and its peer sees the end when there is one."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from daemon_under_test import eventually, read_all
from plugin import install

ANSWER = b"x" * 65536 + b"the last line\n"
WRITER = ["/usr/bin/perl", "-e", "print 'x' x 65536; print \"the last line\\n\""]
PYTHON_WRITER = """
import os
def main(argv):
    os.write(1, b"x" * 65536 + b"the last line\\n")
    return 0
async def serve(reader, writer, options):
    writer.write(b"x" * 65536 + b"the last line\\n")
"""
MODES = [
    {"mode": "process"},
    {"mode": "pool", "workers": 2},
    {"mode": "loop", "workers": 1, "selector": "poll"},
]


def test_the_whole_answer_arrives_though_the_peers_megabyte_was_never_read(superd):
    daemon = superd({"services": {"w": {"listen": "127.0.0.1:0", "exec": WRITER}}})
    host, port = daemon.address("w")
    megabyte = b"y" * (1 << 20)
    for _ in range(200):
        with socket.create_connection((host, port), timeout=20) as sock:
            assert _send_and_read(sock, megabyte) == ANSWER


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["mode"])
def test_a_python_handlers_answer_arrives_as_well(superd, tmp_path, mode):
    environment = install(tmp_path / "plugin", "writer", PYTHON_WRITER)
    daemon = superd(
        {"services": {"w": {"listen": "127.0.0.1:0", "handler": "writer", **mode}}},
        environment=environment,
    )
    host, port = daemon.address("w")
    for _ in range(50):
        with socket.create_connection((host, port), timeout=20) as sock:
            assert _send_and_read(sock, b"y" * (1 << 20)) == ANSWER


def test_without_the_lingering_close_the_answer_would_be_lost():
    """Negative control: a plain close with unread bytes resets the connection."""
    lost = sum(_lost_by_a_plain_close() for _ in range(20))
    assert lost > 0


def test_a_handler_that_closes_its_socket_and_works_on_gives_its_peer_the_end(superd):
    program = ["/bin/sh", "-c", "echo answer; exec <&- >&-; exec sleep 60"]
    daemon = superd(
        {
            "services": {
                "w": {
                    "listen": "127.0.0.1:0",
                    "exec": program,
                    "timeouts": {"stop": "200ms"},
                }
            }
        },
        expect=["kill service=w"],
    )
    with daemon.connect("w") as sock:
        start = time.monotonic()
        assert read_all(sock) == b"answer\n"
        assert time.monotonic() - start < 2.5
    assert not daemon.log("end service=w"), "it still works: its slot is taken"


def test_a_python_handler_that_closes_its_socket_gives_its_peer_the_end_too(
    superd, tmp_path
):
    source = """
import os, signal
def main(argv):
    os.write(1, b"answer\\n")
    os.close(0)
    os.close(1)
    signal.pause()
    return 0
"""
    environment = install(tmp_path / "plugin", "closer", source)
    daemon = superd(
        {
            "services": {
                "w": {
                    "listen": "127.0.0.1:0",
                    "handler": "closer",
                    "timeouts": {"stop": "200ms"},
                }
            }
        },
        environment=environment,
        expect=["kill service=w"],
    )
    with daemon.connect("w") as sock:
        start = time.monotonic()
        assert read_all(sock) == b"answer\n"
        assert time.monotonic() - start < 2.5


def test_a_background_process_keeps_the_connection_after_its_handler_has_ended(superd):
    program = ["/bin/sh", "-c", "(read line; echo late $line) & exit 0"]
    # a shell gives a background process /dev/null for stdin: hand it the socket
    program[2] = "exec 3<&0; (read line <&3; echo late $line) 3<&3 & exit 0"
    daemon = superd({"services": {"w": {"listen": "127.0.0.1:0", "exec": program}}})
    with daemon.connect("w") as sock:
        daemon.wait_log("end service=w")
        sock.sendall(b"hello\n")
        assert read_all(sock) == b"late hello\n"


def test_a_failed_start_closes_its_connection_at_once(superd, tmp_path):
    program = tmp_path / "gone"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    daemon = superd(
        {"services": {"w": {"listen": "127.0.0.1:0", "exec": [str(program)]}}},
        expect=["throttle service=w"],
    )
    program.unlink()
    start = time.monotonic()
    assert daemon.talk("w", b"x") == b""
    assert time.monotonic() - start < 2
    daemon.wait_log(r"throttle service=w reason=.*No such file")


def test_a_half_closed_connection_still_gets_its_answer(superd):
    daemon = superd(
        {"services": {"sort": {"listen": "127.0.0.1:0", "exec": ["/usr/bin/sort"]}}}
    )
    assert daemon.talk("sort", b"b\na\n") == b"a\nb\n"


def test_a_peer_that_never_reads_ends_with_its_handlers_lifetime(superd):
    daemon = superd(
        {
            "services": {
                "yes": {
                    "listen": "127.0.0.1:0",
                    "exec": ["/usr/bin/yes"],
                    "timeouts": {"lifetime": "300ms"},
                }
            }
        },
        expect=["note service=yes"],
    )
    with daemon.connect("yes"):
        daemon.wait_log(r"end service=yes .* status=signal:15")


def test_a_handler_that_ignores_term_is_killed(superd):
    program = ["/bin/sh", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"]
    daemon = superd(
        {
            "services": {
                "w": {
                    "listen": "127.0.0.1:0",
                    "exec": program,
                    "timeouts": {"lifetime": "100ms"},
                }
            }
        },
        expect=["note service=w"],
    )
    with daemon.connect("w") as sock:
        assert sock.recv(3) == b"on\n"
        daemon.wait_log(r"end service=w .* status=signal:9", deadline=12)


def _lost_by_a_plain_close() -> bool:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=10) as sock,
    ):
        conn, _ = listener.accept()
        sock.sendall(b"y" * 4096)
        conn.sendall(ANSWER[:4096])
        eventually(lambda: conn.recv(1, socket.MSG_PEEK), "bytes")
        conn.close()
        try:
            sock.sendall(b"y" * 4096)
            return read_all(sock) != ANSWER[:4096]
        except ConnectionError:
            return True


def _send_and_read(sock: socket.socket, data: bytes) -> bytes:
    """Send it all and read it all at the same time, as far as the peer takes it."""
    sock.setblocking(False)
    got = bytearray()
    view = memoryview(data)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if view:
            try:
                view = view[sock.send(view[:65536]) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                view = view[:0]
            if not view:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        try:
            part = sock.recv(65536)
        except BlockingIOError:
            continue
        if not part:
            return bytes(got)
        got += part
    raise AssertionError("no end")
