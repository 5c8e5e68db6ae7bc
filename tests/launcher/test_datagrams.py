"""A datagram service: its guards, its bounds, and that a handler's fault costs little."""

from __future__ import annotations

import socket

import pytest
from daemon_under_test import DEADLINE, ready

from superd.launcher.datagrams import BURST, TURN, DatagramService

SOURCE = (
    "import sys\n"
    "def main(argv): return 0\n"
    "def datagram(data, peer, options):\n"
    " if data == b'raise': raise ValueError('x')\n"
    " if data == b'exit': sys.exit(3)\n"
    " if data == b'text': return 'text'\n"
    " if data == b'none': return None\n"
    " if data == b'huge': return b'x' * 65508\n"
    " if data == b'most': return b'x' * 65507\n"
    " return data.upper()\n"
)


def udp(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    sock.settimeout(DEADLINE)
    return sock


@pytest.fixture
def ends():
    """Give a service's socket and a client's."""
    with udp() as ours, udp() as client:
        client.connect(ours.getsockname())
        yield ours, client


def serve(sock, answer, ports=frozenset()):
    return DatagramService(sock, "1", answer, None, ports, 0.0)


def asked(ours, client, data=b"x", count=1):
    for _ in range(count):
        client.send(data)
    assert ready([ours.fileno()], DEADLINE)


def nothing(sock):
    sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    sock.settimeout(DEADLINE)


def test_the_handler_sees_the_data_the_peer_and_its_options(ends):
    ours, client = ends
    seen = []
    it = DatagramService(ours, "1", lambda *a: seen.append(a), "opts", frozenset(), 0.0)
    asked(ours, client, b"data")
    it.read(3.0)
    assert seen == [(b"data", client.getsockname(), "opts")]
    assert it.heard == 3.0
    nothing(client)


def test_a_guarded_datagram_never_reaches_the_handler(ends):
    ours, client = ends
    seen = []
    own = frozenset({client.getsockname()[1]})
    it = serve(ours, lambda *a: seen.append(a), own)
    asked(ours, client, count=3)
    it.read(0.0)
    assert seen == []
    assert it.refused == {"port-own": 3}


def test_one_source_gets_its_burst_and_then_its_rate(ends):
    ours, client = ends
    seen = []
    it = serve(ours, lambda *a: seen.append(a))
    for _ in range(8):
        asked(ours, client, count=40)
        while ready([ours.fileno()], 0):
            it.read(0.0)
    assert len(seen) == BURST
    assert it.refused == {"rate": 320 - BURST}
    asked(ours, client, count=10)
    it.read(0.05)
    assert len(seen) == BURST + 5, "time gives new ones"


def test_a_flood_is_read_a_turn_at_a_time(ends):
    ours, client = ends
    seen = []
    it = serve(ours, lambda *a: seen.append(a))
    asked(ours, client, count=TURN + 5)
    it.read(0.0)
    assert len(seen) == TURN
    it.read(0.0)
    assert len(seen) == TURN + 5


@pytest.mark.parametrize(
    "fault", [ValueError, SystemExit, RecursionError, "text", 5, []]
)
def test_a_fault_of_the_handler_costs_its_datagram(ends, fault):
    # Regression: sys.exit() and an answer that is no bytes ended the launcher.
    ours, client = ends

    def answer(data, _peer, _options):
        if data != b"bad":
            return bytearray(data)
        if isinstance(fault, type):
            raise fault
        return fault

    it = serve(ours, answer)
    asked(ours, client, b"bad")
    asked(ours, client, b"good")
    it.read(0.0)
    assert it.faults == 1
    assert client.recv(10) == b"good"


def test_an_answer_that_no_datagram_can_carry_is_counted(ends):
    ours, client = ends
    it = serve(ours, lambda *_: b"x" * 65508)
    asked(ours, client)
    it.read(0.0)
    assert it.refused == {"unsent": 1}
    nothing(client)


def test_an_answer_leaves_from_the_address_that_was_asked():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours, udp() as client:
        ours.bind(("0.0.0.0", 0))
        it = serve(ours, lambda *_: b"answer")
        client.sendto(b"x", ("127.0.0.77", ours.getsockname()[1]))
        assert ready([ours.fileno()], DEADLINE)
        it.read(0.0)
        assert client.recvfrom(10) == (b"answer", ("127.0.0.77", ours.getsockname()[1]))


# -- in a real launcher ----------------------------------------------------------------


def give(it, sock, conn=1, ports=""):
    it.put(f"serve {conn} {ports or sock.getsockname()[1]}", fds=(sock.fileno(),))


def ask(client, sock, data):
    client.sendto(data, sock.getsockname())
    return client.recv(1 << 16)


def test_faults_are_reported_and_the_service_goes_on(launcher):
    it = launcher.python(SOURCE, constants={"superd.launcher.serve.SWEEP": 0.05})
    with udp() as sock, udp() as client:
        give(it, sock)
        for data in (b"raise", b"exit", b"text", b"none", b"huge"):
            client.sendto(data, sock.getsockname())
        assert ask(client, sock, b"on") == b"ON"
        assert len(ask(client, sock, b"most")) == 65507
        it.wait("^note refuse datagrams reason=unsent count=1$")
        seen = 0
        while seen < 3:
            seen = sum(
                int(one.split()[1])
                for one in it.records
                if one.endswith("datagrams met a bug of the handler")
            )
            assert seen == 3 or it.take(DEADLINE)
    assert it.is_alive()


def test_an_ipv4_and_an_ipv6_socket_are_served_by_one_launcher_at_once(launcher):
    it = launcher.python(SOURCE)
    with (
        udp() as four,
        udp() as client4,
        udp(socket.AF_INET6) as six,
        udp(socket.AF_INET6) as client6,
    ):
        ports = f"{four.getsockname()[1]},{six.getsockname()[1]}"
        it.put(
            f"serve 1 {ports}",
            f"serve 2 {ports}",
            fds=(four.fileno(), six.fileno()),
        )
        for number in range(5):
            assert ask(client4, four, b"a%d" % number) == b"A%d" % number
            assert ask(client6, six, b"b%d" % number) == b"B%d" % number
        it.put("retire")
        it.wait("^end 1 0 0 0$")
        it.wait("^end 2 0 0 0$")
        assert it.wait_end() == 0


def test_a_socket_nobody_asks_goes_back_to_the_master(launcher):
    constants = {"superd.launcher.lent.IDLE": 0.1, "superd.launcher.serve.SWEEP": 0.02}
    it = launcher.python(SOURCE, constants=constants)
    with udp() as sock, udp() as client:
        before = it.fds()
        give(it, sock, 7)
        assert ask(client, sock, b"x") == b"X"
        it.wait("^end 7 0 0 0$")
        assert it.fds() == before
        # The master has it again, and what comes now is its: nothing is lost.
        client.sendto(b"for the master", sock.getsockname())
        assert sock.recv(100) == b"for the master"
        give(it, sock, 8)
        assert ask(client, sock, b"y") == b"Y"


def test_a_handler_without_a_datagram_function_is_a_failed_start(launcher):
    it = launcher()
    with udp() as sock:
        before = it.fds()
        give(it, sock)
        assert (
            it.wait("^fail 1 handler ")
            == "fail 1 handler the handler answers no datagrams"
        )
        assert it.fds() == before


@pytest.mark.parametrize("argv", [["--unknown"], ["--help"], ["word"]])
def test_flags_that_are_none_are_a_failed_start(launcher, argv):
    it = launcher.python(SOURCE, argv=argv)
    with udp() as sock:
        give(it, sock)
        it.wait("^fail 1 handler options: ")
        assert it.is_alive()


def test_datagrams_and_connections_share_a_launcher(launcher):
    it = launcher.python(SOURCE.replace("return 0", "print('stream')", 1))
    with udp() as sock, udp() as client:
        give(it, sock, 99)
        for _ in range(3):
            assert ask(client, sock, b"d") == b"D"
            assert it.talk() == b"stream\n"
