"""A wait between two requests ends when the worker is to end, and costs no request."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from daemon_under_test import DEADLINE

from superd.launcher.looping import make_loop
from superd.streams import reader as reading
from superd.streams.reader import BUDGET, Reader

KINDS = ["epoll", "uvloop"]
try:
    # libuv opens a pipe at its first loop and keeps it as long as the process lives.
    make_loop("uvloop").close()
except ImportError:
    KINDS.remove("uvloop")


@pytest.fixture(params=KINDS)
def play(request):
    """Run `main(peer, reader)` over a fresh connection: `play(main)`."""
    loop = make_loop(request.param)
    peer, ours = socket.socketpair()
    ours.setblocking(False)
    reader = Reader(ours, loop)

    def run(main):
        loop.run_until_complete(asyncio.wait_for(main(peer, reader), DEADLINE))

    with peer, ours:
        yield run
        reader.end()
        loop.close()


@pytest.fixture
def at_once(monkeypatch):
    """Be as after GRACE of every wait."""
    monkeypatch.setattr(reading, "GRACE", 0.0)


@pytest.fixture
def never(monkeypatch):
    """Be as before GRACE of any wait."""
    monkeypatch.setattr(reading, "GRACE", 1000.0)


async def begin(reader, **how):
    """Begin to read; returns the task, which waits."""
    task = asyncio.ensure_future(reader.read(100, **how))
    await asyncio.sleep(0)
    return task


async def some_turns():
    for _ in range(5):
        await asyncio.sleep(0.001)


def test_a_wait_of_some_time_ends_at_once_as_one_that_took_too_long(play, at_once):
    async def main(_peer, reader):
        assert not reader.is_retiring()
        deadline = time.monotonic() + DEADLINE
        task = await begin(reader, deadline=deadline, idle=True)
        reader.retire()
        assert reader.is_retiring()
        with pytest.raises(TimeoutError):
            await task
        assert reader.dismissed

    play(main)


def test_a_wait_that_has_just_begun_goes_on_for_the_grace(play, monkeypatch):
    monkeypatch.setattr(reading, "GRACE", 0.1)

    async def main(peer, reader):
        task = await begin(reader, idle=True)
        began = time.monotonic()
        reader.retire()
        peer.send(b"GET")
        assert await task == b"GET"
        with pytest.raises(TimeoutError):
            await reader.read(100, idle=True)
        # Half of it: a loop may be early by its resolution, uvloop's is 1 ms.
        assert time.monotonic() - began > 0.05
        assert reader.dismissed

    play(main)


def test_within_the_grace_a_deadline_is_a_deadline(play, never):
    async def main(_peer, reader):
        reader.retire()
        with pytest.raises(TimeoutError):
            await reader.read(100, time.monotonic(), idle=True)
        assert not reader.dismissed

    play(main)


def test_any_other_wait_goes_on(play, at_once):
    async def main(peer, reader):
        task = await begin(reader)
        reader.retire()
        await some_turns()
        assert not task.done()
        peer.send(b"the rest")
        assert await task == b"the rest"
        task = asyncio.ensure_future(reader.readline())
        await some_turns()
        peer.send(b"a line\n")
        assert await task == b"a line\n"
        assert not reader.dismissed

    play(main)


def test_a_wait_that_follows_an_idle_one_is_not_taken_for_it(play, at_once):
    async def main(peer, reader):
        task = await begin(reader, idle=True)
        peer.send(b"GET")
        assert await task == b"GET"
        task = await begin(reader)
        reader.retire()
        await some_turns()
        peer.send(b" /")
        assert await task == b" /"

    play(main)


def test_the_end_that_was_meant_for_one_wait_does_not_end_the_next(play, at_once):
    async def main(peer, reader):
        task = await begin(reader, idle=True)
        reader.retire()
        peer.send(b"GET")  # before its end is due, in the next turn
        assert await task == b"GET"
        task = await begin(reader)
        await some_turns()
        peer.send(b" /")
        assert await task == b" /"
        assert not reader.dismissed

    play(main)


def test_a_request_that_comes_at_the_last_moment_is_served(play, at_once):
    async def main(peer, reader):
        task = await begin(reader, idle=True)
        reader.retire()
        # After the end of the wait, and before its task has heard of that.
        asyncio.get_running_loop().call_later(0, peer.send, b"GET /")
        assert await task == b"GET /"
        assert not reader.dismissed

    play(main)


def test_the_end_of_a_peer_is_still_its_end(play, at_once):
    async def main(peer, reader):
        task = await begin(reader, idle=True)
        peer.shutdown(socket.SHUT_WR)
        reader.retire()
        assert await task == b""
        assert not reader.dismissed

    play(main)


@pytest.mark.parametrize("asked_first", [True, False])
def test_afterwards_what_is_there_is_served(play, at_once, asked_first):
    async def main(peer, reader):
        reader.retire()
        peer.send(b"GET /1GET /2")
        assert await reader.read(6, idle=True) == b"GET /1"
        assert await reader.read(6, idle=True) == b"GET /2"
        if asked_first:
            assert reader.read_nowait(6) is None
        with pytest.raises(TimeoutError):
            await reader.read(6, idle=True)
        assert reader.dismissed
        task = await begin(reader)
        peer.send(b"a body")
        assert await task == b"a body"

    play(main)


def test_afterwards_it_looks_at_the_socket_even_when_its_turn_is_spent(play, at_once):
    async def main(peer, reader):
        reader.retire()
        peer.send(b"GET /")
        reader.spent = BUDGET
        assert reader.read_nowait(100) is None
        assert await reader.read(100, idle=True) == b"GET /"

    play(main)


def test_a_wait_that_has_ended_by_itself_is_not_dismissed(play, at_once):
    async def main(_peer, reader):
        task = await begin(reader, deadline=0.0, idle=True)
        with pytest.raises(TimeoutError):
            await task
        reader.retire()
        await some_turns()
        assert not reader.dismissed

    play(main)
