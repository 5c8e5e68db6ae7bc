"""What handlers write to stderr: a line is a line, whoever floods is the one who waits."""

from __future__ import annotations

import contextlib
import os
import time

import pytest
from master_rig import Lines, fds

from superd.master.eventlog import EventLog
from superd.master.loop import Loop
from superd.master.output import CHUNK, LINE, QUIET, RATE, Output


class Pipe:
    """One pipe, its Output and the lines that came out."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.sink = Lines()
        read, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self.read_fd = read
        self.output = Output(self.loop, EventLog(self.sink), "echo", read)

    def write(self, data: bytes) -> None:
        os.write(self.write_fd, data)
        self.loop.turn(time.monotonic())

    def finish(self) -> None:
        """End the writer, and let everything be read."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1
        while self.loop.is_watched(self.read_fd):
            self.loop.turn(time.monotonic() + 1)

    def texts(self) -> list[str]:
        return [line.partition("text=")[2].strip('"') for line in self.sink.lines]


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.finish()
    pipe.loop.close()


def test_a_line_is_a_line_of_the_log_with_its_service(pipe):
    pipe.write(b"hello\nworld\r\n\n")
    assert pipe.sink.lines[0] == "info stderr service=echo text=hello"
    assert pipe.texts() == ["hello", "world", ""]


def test_a_line_that_comes_in_pieces_is_one(pipe):
    for piece in (b"he", b"ll", b"o\nwor", b"ld\n"):
        pipe.write(piece)
    assert pipe.texts() == ["hello", "world"]


def test_the_last_line_needs_no_newline(pipe):
    before = fds()
    pipe.write(b"a\nlast words")
    assert pipe.texts() == ["a"]
    pipe.finish()
    assert pipe.texts() == ["a", "last words"]
    assert len(fds()) == len(before) - 2  # the writer's end and ours


def test_a_piece_that_stays_alone_is_a_line_after_a_moment(pipe):
    start = time.monotonic()
    pipe.write(b"Password: ")
    while not pipe.sink.lines:
        pipe.loop.turn(start + 5)
    assert QUIET <= time.monotonic() - start < QUIET + 1
    pipe.write(b"next\n")
    assert pipe.texts() == ["Password: ", "next"]


def test_a_line_without_an_end_is_cut_and_nothing_of_it_is_lost(pipe):
    data = bytes(ord("a") + number % 26 for number in range(5 * LINE + 7))
    pipe.write(data)
    assert len(pipe.texts()) == 5
    assert len(pipe.output._rest) == 7
    pipe.write(b"\n")
    assert "".join(pipe.texts()) == data.decode()


def test_long_lines_with_ends_are_cut_as_well(pipe):
    pipe.write(b"x" * (LINE + 1) + b"\n")
    assert [len(text) for text in pipe.texts()] == [LINE, 1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff\xfe", "\\\\xff\\\\xfe"),
        (b"\x00", "\\u0000"),
        (b"\x1b[2J", "\\u001b[2J"),
        ("ü".encode(), "\\u00fc"),
        (b'a b=c "quoted"', 'a b=c \\"quoted\\'),
        (b"\r", ""),
        (b"one\rtwo", "one\\rtwo"),
        (b"\xc2\x85\xe2\x80\xa8", "\\u0085\\u2028"),
    ],
)  # fmt: skip
def test_no_byte_ends_a_line_or_a_field_but_the_newline(pipe, data, text):
    pipe.write(data + b"\n")
    assert pipe.texts() == [text]


def test_a_character_that_is_cut_in_two_by_a_read_is_whole(pipe):
    pipe.write("é".encode()[:1])
    pipe.write("é".encode()[1:] + b"\n")
    assert pipe.texts() == ["\\u00e9"]


def test_whoever_writes_too_much_waits_and_is_read_again_a_second_later(pipe):
    os.set_blocking(pipe.write_fd, False)
    line = b"x" * 1023 + b"\n"
    written = 0
    start = time.monotonic()
    while pipe.loop.is_watched(pipe.read_fd):
        try:
            written += os.write(pipe.write_fd, line)
        except BlockingIOError:
            pipe.loop.turn(time.monotonic())
    seen = sum(map(len, pipe.texts()))
    assert RATE - CHUNK <= seen <= RATE + CHUNK
    with contextlib.suppress(BlockingIOError):  # it is the handler that waits now
        while True:
            written += os.write(pipe.write_fd, line)
    while not pipe.loop.is_watched(pipe.read_fd):
        pipe.loop.turn(start + 5)
    assert 0.9 <= time.monotonic() - start < 3
    pipe.finish()
    assert sum(len(text) + 1 for text in pipe.texts()) >= written


def test_a_rate_below_the_limit_is_never_paused(pipe):
    for _ in range(RATE // CHUNK - 1):
        pipe.write(b"x" * (CHUNK - 1) + b"\n")
        assert pipe.loop.is_watched(pipe.read_fd)


def test_a_wakeup_with_nothing_to_read_is_no_end(pipe):
    pipe.output._readable(1)
    pipe.write(b"on\n")
    assert pipe.texts() == ["on"]
