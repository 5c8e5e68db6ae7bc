"""echo, discard, daytime, time and chargen, over real connections."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inetd import fork, spawn_handler
from looped import in_loop

from superd.handlers import chargen, daytime, discard, echo
from superd.handlers import time as time_handler

MODULES = {
    "echo": echo,
    "discard": discard,
    "daytime": daytime,
    "time": time_handler,
    "chargen": chargen,
}
PEER = ("192.0.2.1", 40000)
CTIME = re.compile(
    rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d \d{4}\r\n"
)


@pytest.fixture(params=["tcp", "pair"])
def kind(request):
    return request.param


@pytest.fixture(params=["process", "loop"])
def serve(request):
    """Serve one connection by a module's main() or by its serve()."""

    def start(module, **how):
        main = module.main if request.param == "process" else in_loop(module)
        return fork(main, **how)

    return start


def ends_quietly(served):
    assert served.wait() == 0
    assert served.log == ""
    return True


def test_echo_sends_the_rest_back_after_a_half_close(serve, kind):
    data = bytes(range(256)) * 200
    with serve(echo, kind=kind) as served:
        assert served.talk(data) == data
        assert ends_quietly(served)


def test_echo_answers_while_the_peer_goes_on(serve, kind):
    with serve(echo, kind=kind) as served:
        for word in (b"a", b"bc", b"\0\r\n"):
            assert served.send(word).read_until(word) == word
        assert served.end().read() == b""
        assert ends_quietly(served)


def test_discard_swallows_a_megabyte_and_answers_nothing(serve, kind):
    with serve(discard, kind=kind) as served:
        assert served.talk(bytes(1 << 20)) == b""
        assert ends_quietly(served)


def test_daytime_is_one_line_of_ctime(serve, kind):
    with serve(daytime, kind=kind) as served:
        assert CTIME.fullmatch(served.read())
        assert ends_quietly(served)


def test_daytime_reaches_a_peer_that_sent_something_first(serve):
    with serve(daytime, early=b"hello?\r\n" * 100) as served:
        assert CTIME.fullmatch(served.read())
        assert ends_quietly(served)


def test_time_is_four_bytes_since_1900(serve, kind):
    with serve(time_handler, kind=kind) as served:
        answer = served.read()
        assert len(answer) == 4
        seconds = int.from_bytes(answer, "big") - 2208988800
        assert abs(seconds % 2**32 - time.time() % 2**32) < 5
        assert ends_quietly(served)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        # RFC 868 gives these itself.
        (0, 2208988800),
        (189302400, 2398291200),
        (315532800, 2524521600),
        (420595200, 2629584000),
        # 2036-02-07T06:28:16Z: the 32 bits are full.
        (2085978495.9, 2**32 - 1),
        (2085978496, 0),
    ],
)
def test_time_starts_again_when_its_bits_are_full(moment, number):
    assert time_handler.number_of(moment) == number.to_bytes(4, "big")


def test_daytime_is_24_characters_for_every_moment():
    for moment in (0, 1e9, 2**31, 2**32, 7e10):
        assert CTIME.fullmatch(daytime.line_of(moment))


def test_chargen_rotates_through_the_printing_characters(serve, kind):
    printing = "".join(map(chr, range(32, 127)))
    with serve(chargen, kind=kind) as served:
        data = b""
        while len(data) < 74 * 200:
            data += served.sock.recv(65536)
        served.sock.close()
        assert ends_quietly(served)
    for number, line in enumerate(data.decode().split("\r\n")[:200]):
        start = number % 95
        assert line == (printing + printing)[start : start + 72]


def test_chargen_reads_while_it_writes(serve):
    """A peer that sends 8 MiB before it reads a byte is not blocked."""
    with serve(chargen) as served:
        served.sock.sendall(bytes(8 << 20))
        assert served.sock.recv(3) == b' !"'
        served.sock.close()
        assert ends_quietly(served)


def test_chargen_goes_on_after_a_half_close(serve):
    with serve(chargen) as served:
        served.end()
        size = 0
        while size < 4 << 20:
            size += len(served.sock.recv(1 << 20))
        served.reset()
        assert ends_quietly(served)


@pytest.mark.parametrize("name", MODULES)
def test_a_peer_that_resets_ends_the_handler_quietly(serve, name):
    with serve(MODULES[name]) as served:
        served.send(bytes(100_000))
        served.reset()
        assert ends_quietly(served)


@pytest.mark.parametrize("name", ["echo", "chargen"])
def test_a_peer_that_never_reads_and_goes_ends_the_handler_quietly(serve, name):
    with serve(MODULES[name]) as served:
        served.sock.setblocking(False)
        # 64 MiB is more than loopback ever buffers: echo is stuck in a write by then.
        with suppress(BlockingIOError):
            for _ in range(1024):
                served.sock.send(bytes(65536))
        served.sock.close()
        assert ends_quietly(served)


@pytest.mark.parametrize("name", MODULES)
def test_it_runs_as_a_module_under_any_inetd(name):
    with spawn_handler(name) as served:
        served.send(b"x\r\n")
        assert served.sock.recv(1) if name != "discard" else True
        served.sock.close()
        assert ends_quietly(served)


@given(st.binary(max_size=2000))
def test_datagrams_are_answered_by_the_rules_of_each(data):
    assert echo.datagram(data, PEER, {}) == data
    assert discard.datagram(data, PEER, {}) is None
    assert CTIME.fullmatch(daytime.datagram(data, PEER, {}))
    assert len(time_handler.datagram(data, PEER, {})) == 4
    assert len(chargen.datagram(data, PEER, {})) == 74
