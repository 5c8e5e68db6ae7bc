"""UDP: answers, guards, wait programs, and none of the loops of other inetds."""

from __future__ import annotations

import socket
import time

import pytest
from daemon_under_test import eventually

READS_ONE = [
    "/usr/bin/perl",
    "-MSocket",
    "-e",
    "my $p = recv(STDIN, my $d, 65536, 0); send(STDOUT, uc $d, 0, $p);",
]


def client(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.settimeout(10)
    return sock


def silent(sock: socket.socket) -> bool:
    """Say whether nothing comes within a moment."""
    sock.settimeout(0.3)
    try:
        sock.recv(65536)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize(
    ("handler", "question", "check"),
    [
        ("echo", b"hello", lambda data: data == b"hello"),
        ("echo", b"", lambda data: data == b""),
        ("echo", b"x" * 60000, lambda data: data == b"x" * 60000),
        ("daytime", b"", lambda data: data.endswith(b"\r\n")),
        ("time", b"", lambda data: len(data) == 4),
        ("chargen", b"?", lambda data: 0 < len(data) <= 512),
    ],
)
def test_a_small_service_answers_a_datagram_with_one(superd, handler, question, check):
    daemon = superd(
        {"services": {"u": {"listen": "127.0.0.1:0/udp", "handler": handler}}}
    )
    address = daemon.address("u", "udp")
    with client() as sock:
        for _ in range(3):
            sock.sendto(question, address)
            data, peer = sock.recvfrom(65536)
            assert check(data)
            assert peer == address


def test_the_answer_leaves_from_the_address_that_was_asked(superd):
    daemon = superd({"services": {"u": {"listen": "0.0.0.0:0/udp", "handler": "echo"}}})
    _, port = daemon.address("u", "udp")
    with client() as sock:
        sock.connect(("127.0.0.3", port))  # takes answers from there alone
        sock.send(b"x")
        assert sock.recv(10) == b"x"


def test_the_answer_of_an_ipv6_listener_leaves_from_the_right_address_too(superd):
    daemon = superd({"services": {"u": {"listen": "[::]:0/udp", "handler": "echo"}}})
    _, port = daemon.address("u", "udp")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("::1", port))
        sock.send(b"x")
        assert sock.recv(10) == b"x"


def test_a_datagram_from_one_of_our_own_services_is_not_answered(superd):
    services = {
        name: {"listen": "127.0.0.1:0/udp", "handler": name}
        for name in ("echo", "chargen")
    }
    # The "other service" whose port is forged as the source: the test holds a twin.
    daemon = superd({"services": services}, expect=["note service=echo"])
    echo = daemon.address("echo", "udp")
    with client(*daemon.address("chargen", "udp")[:1]) as sock:
        sock.sendto(b"fine", echo)
        assert sock.recv(10) == b"fine"
    _, chargen_port = daemon.address("chargen", "udp")
    with client("127.0.0.2", chargen_port) as forged:
        forged.sendto(b"loop", echo)
        assert silent(forged)
    daemon.wait_log("note service=echo .*port-own")


@pytest.mark.root
@pytest.mark.parametrize("port", [7, 19, 1023])
def test_a_datagram_from_a_reserved_port_is_not_answered(superd, port):
    daemon = superd(
        {"services": {"u": {"listen": "127.0.0.1:0/udp", "handler": "echo"}}},
        expect=["note service=u"],
    )
    with client("127.0.0.9", port) as forged:
        forged.sendto(b"loop", daemon.address("u", "udp"))
        assert silent(forged)


def test_one_service_answers_on_tcp_and_udp(superd):
    daemon = superd(
        {
            "services": {
                "echo": {
                    "listen": ["127.0.0.1:0", "127.0.0.1:0/udp"],
                    "handler": "echo",
                }
            }
        }
    )
    assert daemon.talk("echo", b"stream") == b"stream"
    with client() as sock:
        sock.sendto(b"datagram", daemon.address("echo", "udp"))
        assert sock.recv(100) == b"datagram"
    assert daemon.talk("echo", b"stream") == b"stream"


def test_an_error_of_an_earlier_answer_does_not_end_the_service(superd):
    daemon = superd(
        {"services": {"u": {"listen": "127.0.0.1:0/udp", "handler": "echo"}}}
    )
    address = daemon.address("u", "udp")
    for _ in range(5):  # the answer meets a closed port: ICMP, ECONNREFUSED
        with client() as gone:
            gone.sendto(b"x", address)
    with client() as sock:
        sock.sendto(b"on", address)
        assert sock.recv(10) == b"on"


def test_a_wait_program_gets_the_socket_itself(superd):
    daemon = superd(
        {
            "services": {
                "u": {"listen": "127.0.0.1:0/udp", "exec": READS_ONE, "mode": "wait"}
            }
        }
    )
    with client() as sock:
        for _ in range(3):
            sock.sendto(b"hello", daemon.address("u", "udp"))
            assert sock.recv(100) == b"HELLO"
    daemon.wait_log("end service=u", count=3)


def test_a_stream_wait_program_accepts_for_itself_and_has_listen_fds(superd):
    program = ["/usr/bin/perl", "-MSocket", "-e",
               ('die unless $ENV{LISTEN_FDS} == 1 && $ENV{LISTEN_PID} == $$;'
               'open(my $l, "+<&=", 3) or die; accept(my $c, $l) or die;'
               'print $c "accepted\\n"; close $c;')]  # fmt: skip
    daemon = superd(
        {"services": {"w": {"listen": "127.0.0.1:0", "exec": program, "mode": "wait"}}}
    )
    for _ in range(3):
        assert daemon.talk("w") == b"accepted\n"


@pytest.mark.parametrize("listen", ["127.0.0.1:0/udp", "127.0.0.1:0"])
def test_a_wait_program_that_takes_nothing_is_throttled_not_spun(superd, listen):
    daemon = superd(
        {"services": {"u": {"listen": listen, "exec": ["/bin/true"], "mode": "wait"}}},
        expect=["throttle service=u"],
    )
    kind = "udp" if "udp" in listen else "tcp"
    address = daemon.address("u", kind)
    if kind == "udp":
        sock = client()
        sock.sendto(b"never read", address)
    else:
        sock = socket.create_connection(address, timeout=10)
    with sock:
        before, start = daemon.cpu(), time.monotonic()
        daemon.wait_log("throttle service=u .*took nothing", count=2)
        daemon.wait_log("throttle service=u .* delay=2")
        assert len(daemon.log("spawn service=u")) <= 3
        assert (daemon.cpu() - before) / (time.monotonic() - start) < 0.2


def test_a_datagram_handlers_socket_goes_back_at_a_reload(superd):
    config = {"services": {"u": {"listen": "127.0.0.1:0/udp", "handler": "echo"}}}
    daemon = superd(config)
    address = daemon.address("u", "udp")
    with client() as sock:
        sock.sendto(b"one", address)
        assert sock.recv(10) == b"one"
        config["services"]["u"]["handler"] = "chargen"
        daemon.reload(config)
        daemon.wait_log("end service=u")
        sock.sendto(b"two", address)
        assert sock.recv(1000) != b"two"
    eventually(lambda: len(daemon.children()) == 1, "the old launcher has ended")
