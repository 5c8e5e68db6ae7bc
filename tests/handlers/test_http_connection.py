"""The talk of an HTTP connection, without one: steps out, results in."""

from __future__ import annotations

import os

import pytest
from httpd_root import make_root

from superd.handlers import exits
from superd.handlers.conversation import Linger, Read, SendAtOnce, SendFile, Write
from superd.handlers.http.connection import converse
from superd.handlers.http.root import open_root
from superd.handlers.http.site import Bounds, Site

GET = b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


SITE = Site(bounds=Bounds(requests=3))


@pytest.fixture
def root(tmp_path):
    fd = open_root(str(make_root(tmp_path)))
    yield fd
    os.close(fd)


def play(conversation, *pieces, short=0):
    """Give each Read the next piece (an exception is raised); returns steps and end.

    Files have `short` bytes less than they had.
    """
    queue = list(pieces)
    steps = []
    result = None
    try:
        step = next(conversation)
        while True:
            steps.append(step)
            result = None
            if isinstance(step, Read):
                result = queue.pop(0)
            elif isinstance(step, SendFile):
                result = step.size - short
            if isinstance(result, Exception):
                step = conversation.throw(result)
            else:
                step = conversation.send(result)
    except StopIteration as end:
        assert not queue
        return steps, end.value
    except exits.TooSlow as slow:
        return steps, slow


def kinds(steps):
    return [type(step).__name__ for step in steps]


def test_one_small_file_is_one_read_and_one_write(root):
    steps, code = play(converse(SITE, root), CLOSE)
    assert kinds(steps) == ["Read", "Write", "Linger"]
    assert steps[1].data.endswith(b"\r\n\r\nhello\n")
    assert code == 0


def test_a_second_request_switches_nagle_off_and_waits_the_idle_time(root):
    steps, code = play(converse(SITE, root), GET, GET, CLOSE)
    assert kinds(steps) == [
        *("Read", "Write", "SendAtOnce", "Read", "Write", "Read", "Write", "Linger"),
    ]
    first, second = steps[0], steps[3]
    assert first.what == "its request"
    assert second.what == "its next request"
    assert second.deadline < first.deadline
    assert code == 0


def test_what_came_with_the_first_request_is_not_read_again(root):
    steps, _ = play(converse(SITE, root), GET + CLOSE)
    assert kinds(steps) == ["Read", "Write", "SendAtOnce", "Write", "Linger"]


def test_a_big_file_is_left_to_the_kernel(root):
    steps, _ = play(converse(SITE, root), CLOSE.replace(b"hello.txt", b"big.bin"))
    assert kinds(steps) == ["Read", "SendAtOnce", "Write", "SendFile", "Linger"]
    assert steps[2].more
    assert steps[3][1:3] == (0, 1 << 20)


def test_parts_that_are_big_together_are_left_to_the_kernel(root):
    wish = b"Range: bytes=0-9,20-99999\r\n\r\n"
    request = CLOSE.replace(b"hello.txt", b"big.bin").replace(
        b"\r\n\r\n", b"\r\n" + wish
    )
    steps, _ = play(converse(SITE, root), request)
    part = ["Write", "SendFile"]
    assert kinds(steps) == ["Read", "SendAtOnce", *part, *part, "Write", "Linger"]
    assert [step[1:3] for step in steps if isinstance(step, SendFile)] == [
        (0, 10),
        (20, 99980),
    ]


def test_small_parts_go_out_in_one_write(root):
    request = GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=4-,0-1\r\n\r\n")
    steps, _ = play(converse(SITE, root), request, b"")
    assert kinds(steps) == ["Read", "Write", "SendAtOnce", "Read"]
    assert b"\r\n\r\no\n\r\n--" in steps[1].data
    assert b"\r\n\r\nhe\r\n--" in steps[1].data


def test_a_file_that_shrank_between_two_parts_ends_the_connection(root, capfd):
    wish = b"Range: bytes=0-9,20-99999\r\n\r\n"
    request = GET.replace(b"hello.txt", b"big.bin").replace(b"\r\n\r\n", b"\r\n" + wish)
    steps, code = play(converse(SITE, root), request, short=1)
    assert kinds(steps) == ["Read", "SendAtOnce", "Write", "SendFile", "Linger"]
    assert "shrank from 10 to 9" in capfd.readouterr().err
    assert code == 0


def test_a_peer_that_says_nothing_gets_408_and_is_blamed(root):
    steps, code = play(converse(SITE, root), exits.TooSlow("late"))
    assert kinds(steps) == ["Read", "Write", "Linger"]
    assert steps[1].data.startswith(b"HTTP/1.1 408 ")
    assert isinstance(code, exits.TooSlow)


def test_an_idle_peer_is_no_fault(root):
    steps, code = play(converse(SITE, root), GET, exits.TooSlow("late"))
    assert kinds(steps) == ["Read", "Write", "SendAtOnce", "Read"]
    assert code == 0


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/1.1\n\n", b"400", exits.PEER),
        (b"GET /" + b"x" * 9000, b"414", exits.PEER),
        (b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"501", exits.OK),
    ],
)
def test_a_refusal_is_written_and_ends_the_talk(root, data, status, code):
    steps, end = play(converse(SITE, root), data)
    assert kinds(steps) == ["Read", "Write", "Linger"]
    assert steps[1].data.startswith(b"HTTP/1.1 " + status)
    assert end == code


def test_the_steps_are_values():
    assert Write(b"x", 1.0, "a") == Write(b"x", 1.0, "a", more=False)
    assert SendAtOnce() == SendAtOnce()
    assert kinds([Linger()]) == ["Linger"]
