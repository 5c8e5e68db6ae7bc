"""A stop and a reload wait for requests, and not for peers that might ask again."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack

import pytest
from daemon_under_test import DEADLINE, eventually, read_all

IDLE = 20
BIG = 32 << 20
"""Bytes of a download: more than the sockets on its way take in."""
HALF = b"OPTIONS * HTTP/1.1\r\nHo"
PATIENCE = {"timeouts": {"idle": "60s"}, "limits": {"requests": 1_000_000}}


def both(folder, **keys):
    """Configure httpd and a proxy that wait a minute for any number of requests."""
    options = {
        "httpd": {"root": str(folder), **PATIENCE},
        "proxy": {"allow_private": True, "http_ports": ["any"], **PATIENCE},
    }
    return {
        "services": {
            name: {"handler": name, "listen": "127.0.0.1:0", "options": one, **keys}
            for name, one in options.items()
        }
    }


LOOP = {"mode": "loop", "workers": 1, "timeouts": {"stop": "60s"}}


@pytest.fixture
def www(tmp_path):
    """Give a folder with a small file and a big one."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    (folder / "big").write_bytes(bytes(range(256)) * (BIG >> 8))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def request(daemon, service, path):
    """Return a request for a file, directly or through the proxy."""
    host, port = daemon.address("httpd")
    origin = f"http://{host}:{port}" if service == "proxy" else ""
    return f"GET {origin}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def read_head(peer):
    """Read the head of an answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = peer.recv(1)
        assert byte, head
        head += byte
    return head


def asked(stack, daemon, service):
    """Return a client that has had an answer and keeps its connection."""
    peer = stack.enter_context(daemon.connect(service))
    peer.sendall(request(daemon, service, "/small"))
    assert read_head(peer).startswith(b"HTTP/1.1 200 ")
    assert peer.recv(5, socket.MSG_WAITALL) == b"small"
    return peer


@pytest.mark.parametrize("service", ["httpd", "proxy"])
def test_a_stop_waits_for_requests_and_not_for_idle_peers(superd, www, service):
    daemon = superd(both(www, **LOOP))
    with ExitStack() as stack:
        idle = [asked(stack, daemon, service) for _ in range(IDLE)]
        asking = asked(stack, daemon, service)
        with daemon.connect(service) as loading:
            loading.sendall(request(daemon, service, "/big"))
            assert read_head(loading).startswith(b"HTTP/1.1 200 ")
            asking.sendall(HALF)
            daemon.process.send_signal(signal.SIGTERM)
            # They need not do anything for that, and keep their ends open.
            assert [read_all(peer) for peer in idle] == [b""] * IDLE
            assert daemon.process.poll() is None
            asking.sendall(b"st: x\r\n\r\n")
            assert read_head(asking).startswith(b"HTTP/1.1 ")
            assert read_all(asking) == b""
            body = read_all(loading)
        assert body == bytes(range(256)) * (BIG >> 8)
        daemon.wait_end()
    assert daemon.process.returncode == 0
    assert not daemon.log(" kill ")


@pytest.mark.parametrize("service", ["httpd", "proxy"])
def test_so_does_a_reload_that_retires_a_worker(superd, www, service):
    daemon = superd(both(www, **LOOP))
    with ExitStack() as stack:
        idle = [asked(stack, daemon, service) for _ in range(IDLE)]
        loading = stack.enter_context(daemon.connect(service))
        loading.sendall(request(daemon, service, "/big"))
        assert read_head(loading).startswith(b"HTTP/1.1 200 ")
        before = len(daemon.children())
        daemon.reload(both(www, **LOOP, environment={"A": "b"}))
        assert [read_all(peer) for peer in idle] == [b""] * IDLE
        assert read_all(loading) == bytes(range(256)) * (BIG >> 8)
        asked(stack, daemon, service)
        eventually(lambda: len(daemon.children()) <= before, "the old ones have ended")


@pytest.mark.parametrize("service", ["httpd", "proxy"])
def test_who_asks_without_a_pause_hears_of_the_end_with_an_answer(superd, www, service):
    daemon = superd(both(www, **LOOP))
    with daemon.connect(service) as peer:
        asks = request(daemon, service, "/small")
        daemon.write(both(www, **LOOP, environment={"A": "b"}))
        daemon.process.send_signal(signal.SIGHUP)
        head = b""
        until = time.monotonic() + DEADLINE
        while b"Connection: close" not in head:
            assert time.monotonic() < until, "the worker does not retire"
            peer.sendall(asks)
            head = read_head(peer)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert peer.recv(5, socket.MSG_WAITALL) == b"small"
        assert read_all(peer) == b""


@pytest.mark.parametrize("service", ["httpd", "proxy"])
def test_requests_that_were_sent_ahead_get_all_their_answers(superd, www, service):
    daemon, origin = superd(both(www, **LOOP)), superd(both(www))
    asks = request(origin, service, "/big") + 3 * request(origin, service, "/small")
    with daemon.connect(service) as peer:
        peer.sendall(asks)
        assert read_head(peer).startswith(b"HTTP/1.1 200 ")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_state("STOPPING=1")
        answers = read_all(peer)[BIG:]
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"small") == 3
    assert b"Connection: close" in answers.rpartition(b"HTTP/1.1 ")[2]
    daemon.wait_end()


@pytest.mark.parametrize("mode", ["process", "pool"])
def test_in_a_process_of_its_own_nobody_knows_whether_a_peer_is_idle(superd, www, mode):
    """Negative control: there it is for `timeouts.stop` to end the wait."""
    keys = {"mode": mode, "timeouts": {"stop": "300ms"}}
    daemon = superd(both(www, **keys), expect=["kill service=httpd"])
    with ExitStack() as stack:
        peer = asked(stack, daemon, "httpd")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_log("kill service=httpd signal=TERM live=1")
        assert read_all(peer) == b""
        daemon.wait_end()
