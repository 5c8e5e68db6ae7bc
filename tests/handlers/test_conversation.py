"""The steps of a conversation mean the same in a process and in a loop."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

import pytest
from inetd import connection, fork
from looped import in_loop

from superd.handlers import chargen, exits
from superd.handlers.conversation import (
    Linger,
    Read,
    SendAtOnce,
    SendFile,
    Work,
    Write,
    talk,
    talk_in_loop,
)
from superd.handlers.run import run
from superd.handlers.wire import Wire
from superd.streams import reader as reading
from superd.streams.reader import Reader
from superd.streams.writer import Writer


class Demo:
    """A handler made of one conversation."""

    def __init__(self, conversation):
        self.OPTIONS = {}
        self.__name__ = "demo"
        self.conversation = conversation

    def main(self, argv):
        def work(_options):
            with Wire() as wire:
                return talk(self.conversation(), wire)

        return run("demo", {}, work, argv)

    async def serve(self, reader, writer, _options):
        return await talk_in_loop(self.conversation(), reader, writer)


@pytest.fixture(params=["process", "loop"])
def play(request):
    """Start a handler that leads this conversation."""

    def start(conversation, **how):
        demo = Demo(conversation)
        main = demo.main if request.param == "process" else in_loop(demo)
        return fork(main, **how)

    return start


def soon():
    return time.monotonic() + 0.2


def later():
    return time.monotonic() + 10


def test_what_was_read_comes_back_and_the_return_value_is_the_exit_code(play):
    def conversation():
        yield SendAtOnce()
        data = yield Read(3, later(), "its word")
        rest = yield Read(100, later(), "the rest")
        yield Write(data + b"|", later(), "one", more=True)
        yield Write(rest + b"|", later(), "two")
        end = yield Read(100, later(), "its end")
        yield Write(b"end" if end == b"" else end, later(), "three")
        yield Linger()
        return 7

    for kind in ("tcp", "pair"):
        with play(conversation, kind=kind, early=b"abcde") as served:
            assert served.read_until(b"|de|") == b"abc|de|"
            assert served.end().read() == b"end"
            assert served.wait() == 7


def test_a_file_goes_behind_what_was_written(play, tmp_path):
    path = tmp_path / "file"
    data = os.urandom(3 << 20)
    path.write_bytes(data)

    def conversation():
        fd = os.open(path, os.O_RDONLY)
        try:
            yield Write(bytes(100_000), later(), "the head", more=True)
            sent = yield SendFile(fd, 0, len(data), later(), "the file")
            assert sent == len(data)
            sent = yield SendFile(fd, 0, len(data) + 5, later(), "the file")
            assert sent == len(data)
        finally:
            os.close(fd)
        return 0

    with play(conversation) as served:
        assert served.read() == bytes(100_000) + data + data
        assert served.wait() == 0
        assert served.log == ""


def flood():
    yield Write(bytes(64 << 20), soon(), "a flood")


def file_flood():
    fd = os.memfd_create("big")
    os.truncate(fd, 64 << 20)
    try:
        yield SendFile(fd, 0, 64 << 20, soon(), "a file")
    finally:
        os.close(fd)


def silence():
    yield Read(100, soon(), "its word")


@pytest.mark.parametrize(
    ("conversation", "text"),
    [
        (flood, "to read a flood"),
        (file_flood, "to read a file"),
        (silence, "with its word"),
    ],
)
def test_a_deadline_that_passes_is_too_slow(play, conversation, text):
    with play(conversation) as served:
        assert served.wait() == exits.SLOW
        assert served.log == f"demo: the peer was too slow {text}\n"


def test_a_wait_between_requests_is_one_like_any_other_while_nothing_ends(play):
    def conversation():
        data = yield Read(100, later(), "its next request", idle=True)
        yield Write(data, later(), "the answer")
        try:
            yield Read(100, soon(), "its next request", idle=True)
        except exits.TooSlow as slow:
            yield Write(str(slow).encode(), later(), "why")
        return 0

    with play(conversation) as served:
        assert served.send(b"one").read_until(b"one") == b"one"
        assert served.read() == b"the peer was too slow with its next request"
        assert served.wait() == 0


def test_in_a_loop_that_is_to_end_it_is_too_slow_at_once(monkeypatch):
    monkeypatch.setattr(reading, "GRACE", 0.0)

    def conversation():
        yield Write(b"x", later(), "a byte")
        with pytest.raises(exits.TooSlow):
            yield Read(100, later(), "its next request", idle=True)
        return 7

    async def retired():
        peer, sock = connection("pair")
        with peer, sock:
            for one in (peer, sock):
                one.setblocking(False)
            loop = asyncio.get_running_loop()
            reader = Reader(sock, loop)
            writer = Writer(sock, loop, reader)
            task = loop.create_task(talk_in_loop(conversation(), reader, writer))
            await loop.sock_recv(peer, 1)
            reader.retire()
            code = await task
            writer.release()
            return code

    assert asyncio.run(retired()) == 7


def test_a_failure_is_raised_at_the_step_and_may_be_answered(play):
    def fail():
        raise LookupError("nobody")

    async def fail_in_loop():
        fail()

    def conversation():
        try:
            yield Read(1, soon(), "its word")
        except exits.TooSlow:
            yield Write(b"late ", later(), "one")
        try:
            yield Work(fail, fail_in_loop)
        except LookupError as error:
            yield Write(str(error).encode(), later(), "two")
        raise exits.PeerError("rude")

    with play(conversation) as served:
        assert served.read() == b"late nobody"
        assert served.wait() == exits.PEER
        assert served.log == "demo: rude\n"


def test_a_peer_that_goes_ends_the_conversation_and_what_it_holds(play):
    def conversation():
        fd = os.memfd_create("held")
        try:
            while True:
                yield Write(bytes(1 << 16), later(), "more")
        finally:
            os.close(fd)
            os.write(2, b"closed")

    with play(conversation) as served:
        assert served.sock.recv(10)
        served.reset()
        assert served.wait() == exits.OK
        assert served.log == "closed"


async def cancelled(serve):
    """Start serve() on a connection, cancel it after a byte; returns tasks left."""
    peer, sock = connection("pair")
    with peer, sock:
        for one in (peer, sock):
            one.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = Reader(sock, loop)
        writer = Writer(sock, loop, reader)
        task = loop.create_task(serve(reader, writer, {}))
        await loop.sock_recv(peer, 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        writer.release()
        return asyncio.all_tasks() - {asyncio.current_task()}


def test_a_cancelled_conversation_lets_go_of_what_it_holds():
    said = []

    def conversation():
        try:
            yield Write(b"x", later(), "a byte")
            yield Read(1, later(), "its word")
        finally:
            said.append("closed")

    assert asyncio.run(cancelled(Demo(conversation).serve)) == set()
    assert said == ["closed"]


def test_a_cancelled_chargen_leaves_no_task():
    assert asyncio.run(cancelled(chargen.serve)) == set()
