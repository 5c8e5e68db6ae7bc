"""A piece of a file is the same in a process and in a loop, and over a pipe."""

from __future__ import annotations

import os
import time

import pytest
from inetd import fork
from looped import in_loop

from superd.handlers import exits
from superd.handlers.conversation import SendFile, Write, talk, talk_in_loop
from superd.handlers.run import run
from superd.handlers.wire import Wire


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

    def start(conversation):
        demo = Demo(conversation)
        return fork(demo.main if request.param == "process" else in_loop(demo))

    return start


def test_pieces_go_behind_what_was_written_and_end_where_the_file_does(play, tmp_path):
    path = tmp_path / "file"
    data = os.urandom(3 << 20)
    path.write_bytes(data)
    size = len(data)

    def conversation():
        deadline = time.monotonic() + 10
        fd = os.open(path, os.O_RDONLY)
        try:
            yield Write(b"head", deadline, "the head", more=True)
            for start, wanted, there in (
                (0, 5, 5),
                (7, 2 << 20, 2 << 20),
                (size - 9, 20, 9),
                (size, 5, 0),
                (size + 7, 5, 0),
                (3, 0, 0),
            ):
                sent = yield SendFile(fd, start, wanted, deadline, "the file")
                assert sent == there
            yield Write(b"tail", deadline, "the tail")
        finally:
            os.close(fd)
        return 0

    with play(conversation) as served:
        middle = data[:5] + data[7 : 7 + (2 << 20)] + data[-9:]
        assert served.read() == b"head" + middle + b"tail"
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize("start", [0, 1])
def test_a_peer_that_does_not_read_is_too_slow(play, start):
    def conversation():
        fd = os.memfd_create("big")
        os.truncate(fd, 64 << 20)
        try:
            deadline = time.monotonic() + 0.2
            yield SendFile(fd, start, (64 << 20) - start, deadline, "a file")
        finally:
            os.close(fd)

    with play(conversation) as served:
        assert served.wait() == exits.SLOW
        assert served.log == "demo: the peer was too slow to read a file\n"
