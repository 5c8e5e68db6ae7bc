"""The relay under superd itself: every mode, every end, and UDP in mode wait."""

from __future__ import annotations

import select
import socket
import sys
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all
from relays import dead_end, exchange, is_reset, listening, reset, text_of

ROOT = Path(__file__).resolve().parents[2]
ODD = 500_009
MODES = {
    "process": {"mode": "process"},
    "pool": {"mode": "pool", "workers": 1, "max_workers": 1},
    "loop": {"mode": "loop", "workers": 1},
    "epoll": {"mode": "loop", "workers": 1, "selector": "epoll"},
}


@pytest.fixture(params=MODES)
def relay(superd, request):
    """Start a daemon with a relay named r: `relay(to, option=...)`."""

    def start(*to, listen="127.0.0.1:0", keys=(), expect=(), **options):
        service = {
            "listen": listen,
            "handler": "redirect",
            **MODES[request.param],
            "options": {"to": list(to), **options},
            **dict(keys),
        }
        return superd({"services": {"r": service}}, expect=list(expect))

    return start


def accept(listener):
    sock = listener.accept()[0]
    sock.settimeout(20)
    return sock


def test_nothing_is_lost_though_each_side_half_closes(relay):
    up, down = bytes(ODD), b"x" * ODD
    with listening() as (listener, address):
        daemon = relay(address)
        for _ in range(20):
            with daemon.connect("r") as peer, accept(listener) as backend:
                assert exchange([(peer, up), (backend, down)]) == [down, up]
        daemon.wait_log(
            rf"backend={address} up={ODD} down={ODD} .*end=closed", count=20
        )
        daemon.wait_log("end service=r .* status=exit:0", count=20)


def test_many_mib_are_whole_both_ways(relay):
    up, down = bytes(range(256)) * 40_000, b"x" * (7 << 20)
    with listening() as (listener, address):
        daemon = relay(address)
        for _ in range(3):
            with daemon.connect("r") as peer, accept(listener) as backend:
                assert exchange([(peer, up), (backend, down)]) == [down, up]


def test_the_answer_comes_whole_after_the_peer_has_said_all(relay):
    with listening() as (listener, address):
        daemon = relay(address)
        with daemon.connect("r") as peer, accept(listener) as backend:
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            assert read_all(backend) == b"question"
            backend.sendall(b"y" * ODD)
            backend.close()
            assert read_all(peer) == b"y" * ODD


def test_a_reset_is_a_reset_on_the_other_side_though_the_launcher_lingers(relay):
    with listening() as (listener, address):
        daemon = relay(address)
        with daemon.connect("r") as peer:
            backend = accept(listener)
            peer.sendall(b"x")
            assert backend.recv(1) == b"x"
            backend.sendall(b"half")
            reset(backend)
            assert is_reset(peer) == (True, b"half")
        daemon.wait_log("end service=r .* status=exit:111")
        peer = daemon.connect("r")
        with accept(listener) as backend:
            peer.sendall(b"x")
            assert backend.recv(1) == b"x"
            reset(peer)
            assert is_reset(backend) == (True, b"")
        daemon.wait_log("end service=r .* status=exit:0")


def test_a_reset_of_who_has_said_all_is_one_though_nobody_reads_from_it(relay):
    with listening() as (listener, address):
        daemon = relay(address)
        peer = daemon.connect("r")
        with accept(listener) as backend:
            peer.sendall(b"x")
            peer.shutdown(socket.SHUT_WR)
            assert read_all(backend) == b"x"
            reset(peer)
            daemon.wait_log("up=1 down=0 .*end=peer-reset")
        with daemon.connect("r") as peer:
            backend = accept(listener)
            backend.shutdown(socket.SHUT_WR)
            assert read_all(peer) == b""
            reset(backend)
            daemon.wait_log("up=0 down=0 .*end=backend-reset")


def test_an_orderly_end_is_none(relay):
    """The control: without a reset neither side sees one."""
    with listening() as (listener, address):
        daemon = relay(address)
        with daemon.connect("r") as peer, accept(listener) as backend:
            backend.sendall(b"whole")
            backend.shutdown(socket.SHUT_WR)
            assert is_reset(peer) == (False, b"whole")
            peer.close()
            assert is_reset(backend) == (False, b"")


def test_all_backends_down_is_no_empty_answer(relay):
    with dead_end() as dead:
        daemon = relay(dead)
        with daemon.connect("r") as peer:
            assert is_reset(peer) == (True, b"")
        daemon.wait_log(f"no backend: {dead}: ECONNREFUSED")
        daemon.wait_log("end service=r .* status=exit:111")


def test_one_that_was_down_is_tried_again_after_a_while(relay):
    with socket.socket() as first, listening() as (spare, other):
        first.bind(("127.0.0.1", 0))  # and does not listen: it is down
        first.settimeout(20)
        daemon = relay(text_of(first.getsockname()), other, retry="200ms")
        with daemon.connect("r") as peer, accept(spare) as backend:
            exchange([(peer, b"a"), (backend, b"b")])
        first.listen()

        def is_back():
            with daemon.connect("r") as peer:
                ready = select.select([first, spare], [], [], 20)[0]
                with accept(ready[0]) as backend:
                    exchange([(peer, b"a"), (backend, b"b")])
            return ready[0] is first

        assert eventually(is_back, "the first backend is asked again")


def test_a_name_is_looked_up_in_every_mode(relay):
    with listening() as (listener, address):
        name = f"localhost:{address.rpartition(':')[2]}"
        daemon = relay(name)
        for _ in range(3):
            with daemon.connect("r") as peer, accept(listener) as backend:
                assert exchange([(peer, b"up"), (backend, b"down")]) == [b"down", b"up"]
        daemon.wait_log(f"backend={name} up=2 down=4 ", count=3)


def test_a_stop_cuts_with_a_reset(relay):
    with listening() as (listener, address):
        daemon = relay(
            address, keys={"timeouts": {"stop": "200ms"}}, expect=["kill service=r"]
        )
        with daemon.connect("r") as peer, accept(listener) as backend:
            peer.sendall(b"x")
            assert backend.recv(1) == b"x"
            daemon.process.terminate()
            assert is_reset(backend)[0]
            assert is_reset(peer)[0]
            daemon.stop()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_backend_hears_who_came(relay, version):
    with listening() as (listener, address):
        daemon = relay(address, proxy_protocol=version)
        with daemon.connect("r") as peer, accept(listener) as backend:
            peer.sendall(b"hello")
            peer.shutdown(socket.SHUT_WR)
            heard = read_all(backend)
            assert heard.endswith(b"hello")
            if version == "v1":
                own, there = peer.getsockname(), peer.getpeername()
                line = f"PROXY TCP4 {own[0]} {there[0]} {own[1]} {there[1]}\r\n"
                assert heard == line.encode() + b"hello"
            else:
                assert heard[12:16] == b"\x21\x11\x00\x0c"


def test_unix_sockets_on_both_sides(relay, tmp_path):
    path = tmp_path / "front"
    with listening(tmp_path / "back") as (listener, address):
        daemon = relay(address, listen=f"unix:{path}", proxy_protocol="v2")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(str(path))
            with accept(listener) as backend:
                head = backend.recv(16, socket.MSG_WAITALL)
                assert head[12:16] == b"\x21\x31\x00\xd8"
                paths = backend.recv(216, socket.MSG_WAITALL)
                assert paths[108:].rstrip(b"\0") == str(path).encode()
                up, down = bytes(ODD), b"z" * ODD
                assert exchange([(peer, up), (backend, down)]) == [down, up]
        daemon.wait_log("end service=r")


def test_a_relay_to_itself_is_seen(superd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = text_of(listener.getsockname())
        service = {"listen": "fd:x", "handler": "redirect", "options": {"to": own}}
        daemon = superd(
            {"services": {"r": service}},
            inherit={"x": listener},
            expect=["throttle service=r"],
        )
        with socket.create_connection(listener.getsockname(), timeout=20) as peer:
            assert is_reset(peer) == (True, b"")
        daemon.wait_log("is the address of this service itself: a loop")
        daemon.wait_log("end service=r .* status=exit:100")


def test_udp_is_relayed_by_a_wait_service(superd):
    with socket.socket(type=socket.SOCK_DGRAM) as backend:
        backend.bind(("127.0.0.1", 0))
        backend.settimeout(20)
        program = [sys.executable, "-m", "superd.handlers.redirect"]
        program += ["--to", text_of(backend.getsockname())]
        program += ["--timeouts.session", "0.2", "--timeouts.idle", "0.3"]
        service = {
            "listen": "127.0.0.1:0/udp",
            "mode": "wait",
            "exec": program,
            "environment": {"PYTHONPATH": str(ROOT)},
        }
        daemon = superd({"services": {"u": service}})
        address = daemon.address("u", "udp")
        for turn in (1, 2):
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.settimeout(20)
                peer.sendto(b"question", address)
                data, session = backend.recvfrom(100)
                assert data == b"question"
                backend.sendto(b"answer", session)
                assert peer.recvfrom(100) == (b"answer", address)
            daemon.wait_log("redirect: peer=.* up=8 down=6 .*end=idle", count=turn)
            daemon.wait_log("end service=u .* status=exit:0", count=turn)
