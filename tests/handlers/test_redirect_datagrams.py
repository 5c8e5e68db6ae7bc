"""The relay of datagrams: fd 0 is a UDP socket, as inetd's `dgram wait` gives it."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from inetd import DEADLINE
from relays import text_of

from superd.handlers import exits

ROOT = Path(__file__).resolve().parents[2]


def udp(address=("127.0.0.1", 0)):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(DEADLINE)
    return sock


class Relay:
    """The process, the address it is called at, and what it has said."""

    def __init__(self, process, address):
        self.process = process
        self.address = address
        self.log = ""

    def wait_log(self, pattern):
        """Read its log until a line matches; returns the match."""
        until = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.log)):
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.log!r}"
            if select.select([self.process.stderr], [], [], left)[0]:
                data = os.read(self.process.stderr.fileno(), 65536)
                assert data, f"ended without {pattern!r}: {self.log!r}"
                self.log += data.decode()
        return found

    def wait(self):
        status = self.process.wait(DEADLINE)
        self.log += self.process.stderr.read().decode()
        return status


@contextmanager
def relaying(*flags, at=("127.0.0.1", 0)):
    command = [sys.executable, "-m", "superd.handlers.redirect", *flags]
    with udp(at) as sock:
        process = subprocess.Popen(
            command, stdin=sock, stdout=sock, stderr=-1, cwd=ROOT, bufsize=0
        )
        address = sock.getsockname()
        with process:
            try:
                yield Relay(process, address)
            finally:
                process.kill()


@contextmanager
def relayed(*flags, at=("127.0.0.1", 0)):
    """Give the relay and its backend."""
    with (
        udp() as backend,
        relaying("--to", text_of(backend.getsockname()), *flags, at=at) as relay,
    ):
        yield relay, backend


def ask(peer, relay, backend, question=b"question", answer=b"answer"):
    """Send a datagram through, and its answer back; returns whom the backend saw."""
    peer.sendto(question, relay.address)
    data, session = backend.recvfrom(65536)
    assert data == question
    backend.sendto(answer, session)
    assert peer.recvfrom(65536) == (answer, relay.address)
    return session


def test_every_peer_has_a_session_of_its_own():
    with relayed() as (relay, backend), udp() as one, udp() as two:
        first, second = ask(one, relay, backend), ask(two, relay, backend)
        assert first != second
        assert ask(one, relay, backend) == first
        # Crossed: each answer finds the peer that it is for.
        backend.sendto(b"for two", second)
        backend.sendto(b"for one", first)
        assert one.recv(100) == b"for one"
        assert two.recv(100) == b"for two"


@pytest.mark.parametrize("size", [0, 1, 65507])
def test_a_datagram_stays_what_it_is(size):
    with relayed() as (relay, backend), udp() as peer:
        ask(peer, relay, backend, bytes(size), os.urandom(size))


def test_only_the_backend_may_answer():
    with relayed() as (relay, backend), udp() as peer, udp() as stranger:
        session = ask(peer, relay, backend)
        stranger.sendto(b"forged", session)
        backend.sendto(b"true", session)
        assert peer.recv(100) == b"true"


def test_a_silent_session_ends_and_the_next_datagram_begins_another():
    with relayed("--timeouts.session", "0.2") as (relay, backend), udp() as peer:
        ask(peer, relay, backend)
        peer_text, there = text_of(peer.getsockname()), text_of(backend.getsockname())
        relay.wait_log(
            rf"redirect: peer={peer_text} backend={there}"
            r" up=8 down=6 seconds=0\.\d{3} end=idle\n"
        )
        ask(peer, relay, backend)


def test_the_process_ends_when_nobody_has_called_for_long_enough():
    flags = "--timeouts.session", "0.1", "--timeouts.idle", "0.3"
    with relayed(*flags) as (relay, backend), udp() as peer:
        ask(peer, relay, backend)
        assert relay.wait() == exits.OK
        assert relay.log.count("\n") == 1


def test_a_backend_that_is_down_ends_nothing_and_is_used_when_it_is_up():
    with udp() as backend:
        there = backend.getsockname()
    with relaying("--to", text_of(there)) as relay, udp() as peer:
        for _ in range(3):
            peer.sendto(b"lost", relay.address)
            relay.wait_log("end=refused")
            relay.log = ""
        with udp(there) as backend:
            ask(peer, relay, backend)


@contextmanager
def refusing(sock):
    """Give the address of a socket that takes from one other alone: ICMP for the rest."""
    sock.connect(("127.0.0.1", 9))
    yield text_of(sock.getsockname())


def test_a_backend_that_is_down_is_passed_over_for_a_while():
    with (
        udp() as gone,
        udp() as backend,
        refusing(gone) as dead,
        relaying("--to", dead, "--to", text_of(backend.getsockname())) as relay,
        udp() as peer,
        udp() as other,
    ):
        peer.sendto(b"lost", relay.address)
        relay.wait_log("end=refused")
        ask(peer, relay, backend)
        ask(other, relay, backend)
        assert relay.log.count("end=refused") == 1


def test_there_are_so_many_sessions_and_no_more():
    with (
        relayed("--sessions", "2") as (relay, backend),
        udp() as one,
        udp() as two,
        udp() as three,
    ):
        first = ask(one, relay, backend)
        ask(two, relay, backend)
        assert ask(one, relay, backend) == first
        ask(three, relay, backend)
        # The most silent one, not the oldest.
        evicted = relay.wait_log(r"peer=(\S+) .* end=evicted")
        assert evicted[1] == text_of(two.getsockname())
        assert ask(one, relay, backend) == first


def test_an_answer_leaves_from_the_address_that_was_asked():
    with relayed(at=("0.0.0.0", 0)) as (relay, backend), udp() as peer:
        peer.connect(("127.0.0.3", relay.address[1]))  # takes answers from there alone
        peer.send(b"question")
        _, session = backend.recvfrom(100)
        backend.sendto(b"answer", session)
        assert peer.recv(100) == b"answer"


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_a_socket_for_both_families_serves_both(host):
    with relayed(at=("::", 0)) as (relay, backend):
        own = ("::1", 0) if host == "::1" else ("127.0.0.1", 0)
        with udp(own) as peer:
            peer.connect((host, relay.address[1]))
            peer.send(b"question")
            _, session = backend.recvfrom(100)
            backend.sendto(b"answer", session)
            assert peer.recv(100) == b"answer"


@pytest.mark.parametrize("at", ["127.0.0.1", "0.0.0.0"])
def test_a_relay_to_itself_is_a_failure_of_the_set_up(at):
    with udp((at, 0)) as sock:
        own = f"127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-m", "superd.handlers.redirect", "--to", own]
        sock.setblocking(False)
        with udp() as peer:
            peer.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
            done = subprocess.run(
                command, stdin=sock, stderr=-1, cwd=ROOT, timeout=DEADLINE
            )
    assert done.returncode == exits.SETUP
    assert b"is the address of this service itself: a loop" in done.stderr


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--to", "unix:/run/x"], "unix:/run/x: datagrams need UDP"),
        (["--to", "a:1", "--proxy-protocol", "v2"], "datagrams have no header"),
        (["--to", "a"], "no port"),
        ([], "option --to"),
    ],
)
def test_what_datagrams_cannot_do_is_a_failure_of_the_set_up(flags, problem):
    with relaying(*flags) as relay:
        assert relay.wait() == exits.SETUP
        assert problem in relay.log


def test_a_unix_datagram_socket_is_refused():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    command = [sys.executable, "-m", "superd.handlers.redirect", "--to", "a:1"]
    with one, other:
        done = subprocess.run(command, stdin=one, stderr=-1, cwd=ROOT, timeout=DEADLINE)
    assert done.returncode == exits.SETUP
    assert b"Unix datagram socket" in done.stderr
