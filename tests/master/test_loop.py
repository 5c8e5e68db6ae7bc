"""The main loop: signals first, deadlines in order, nobody is called for another."""

from __future__ import annotations

import os
import socket
import time

import pytest

from superd.master.loop import READ, WRITE, Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipes():
    """Make pipes that have something to read."""
    made: list[int] = []

    def make(count: int) -> list[int]:
        reads = []
        for _ in range(count):
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.write(write, b"x")
            made.extend((read, write))
            reads.append(read)
        return reads

    yield make
    for fd in made:
        os.close(fd)


def test_the_descriptor_of_the_signals_is_served_first(loop, pipes):
    called = []
    reads = pipes(20)
    for fd in reads:
        loop.watch(fd, READ, lambda _events, fd=fd: called.append(fd))
    loop.first(reads[13])
    loop.turn(None)
    assert called[0] == reads[13]
    assert sorted(called) == sorted(reads)


def test_one_that_an_earlier_callback_forgot_is_not_called(loop, pipes):
    called = []
    one, other = pipes(2)

    def call(fd: int, sibling: int) -> None:
        called.append(fd)
        loop.forget(sibling)

    loop.watch(one, READ, lambda _events: call(one, other))
    loop.watch(other, READ, lambda _events: call(other, one))
    loop.turn(None)
    assert len(called) == 1


def test_a_number_that_is_another_descriptors_by_now_does_not_wake_the_old_caller(
    loop, pipes
):
    """It woke a launcher that had gone, when the next one's channel got its number."""
    called = []
    first, second = pipes(2)
    ends = [os.dup(second)]

    def replace(_events: int) -> None:
        loop.forget(second)
        os.dup2(first, second)  # closes the one and opens another under its number
        loop.watch(second, READ, lambda _events: called.append("new"))

    loop.first(first)
    loop.watch(first, READ, replace)
    loop.watch(second, READ, lambda _events: called.append("old"))
    loop.turn(None)
    assert called == []
    loop.forget(first)
    loop.turn(None)
    assert called == ["new"]
    os.close(ends[0])


def test_deadlines_are_met_in_their_order_and_equal_ones_as_they_came(loop):
    called = []
    now = time.monotonic()
    for when, name in ((3, "d"), (1, "a"), (2, "c"), (1, "b")):
        loop.later(now - 10 + when, lambda name=name: called.append(name))
    loop.turn(None)
    assert called == ["a", "b", "c", "d"]


def test_a_turn_ends_with_the_first_deadline_and_not_before(loop):
    called = []
    due = time.monotonic() + 0.03
    loop.later(due, lambda: called.append(time.monotonic()))
    loop.later(due + 1000, lambda: called.append(0.0))
    while not called:
        loop.turn(due + 5)
    assert due <= called[0] < due + 1


def test_a_turn_ends_at_the_callers_deadline(loop):
    start = time.monotonic()
    loop.turn(start + 0.01)
    assert 0.005 <= time.monotonic() - start < 1


def test_a_past_deadline_is_no_negative_wait(loop):
    loop.turn(time.monotonic() - 100)


def test_descriptors_come_before_deadlines_and_those_before_the_end_of_the_turn(
    loop, pipes
):
    called = []
    (fd,) = pipes(1)
    loop.after_turn.append(lambda: called.append("end"))
    loop.later(0.0, lambda: called.append("deadline"))
    loop.watch(fd, READ, lambda _events: called.append("descriptor"))
    loop.turn(None)
    assert called == ["descriptor", "deadline", "end"]


def test_a_callback_that_fails_costs_its_turn_and_nothing_else(loop, pipes):
    called = []
    one, other = pipes(2)

    def fail(_events: int) -> None:
        loop.forget(one)
        raise RuntimeError

    def fail_late() -> None:
        raise RuntimeError

    loop.first(one)
    loop.watch(one, READ, fail)
    loop.watch(other, READ, lambda _events: called.append("other"))
    loop.later(0.0, fail_late)
    loop.later(0.0, lambda: called.append("deadline"))
    with pytest.raises(RuntimeError):
        loop.turn(None)
    with pytest.raises(RuntimeError):
        loop.turn(None)
    loop.turn(None)
    assert called == ["other", "other", "deadline"]


def test_a_changed_watch_gets_other_events(loop):
    called = []
    one, other = socket.socketpair()
    with one, other:
        loop.watch(one.fileno(), READ, called.append)
        loop.turn(time.monotonic())
        assert called == []
        loop.change(one.fileno(), READ | WRITE, called.append)
        loop.turn(None)
        assert called == [WRITE]
        loop.forget(one.fileno())
        assert not loop.is_watched(one.fileno())


def test_one_closed_without_forgetting_would_go_on_reporting(loop, pipes):
    """Negative control: epoll watches the description, which somebody else still holds."""
    called = []
    (fd,) = pipes(1)
    mine = os.dup(fd)
    loop.watch(mine, READ, called.append)
    os.close(mine)
    loop.turn(time.monotonic() + 0.01)
    assert called == [READ]
