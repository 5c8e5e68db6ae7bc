"""The outbox: what is queued leaves in order, in few datagrams, and once."""

from __future__ import annotations

import array
import errno
import os
import select
import socket

import pytest
from fakeos import FaultyKernel
from master_rig import fds

from superd.core.protocol import MAX_DATAGRAM, MAX_FDS
from superd.master.kernel import Kernel
from superd.master.outbox import Outbox


class Way:
    """An outbox and the other end of its channel."""

    def __init__(self, kernel: Kernel | None = None, most: int = MAX_DATAGRAM) -> None:
        self.ours, self.theirs = (kernel or Kernel()).socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.box = Outbox(kernel or Kernel(), self.ours, most)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.box.drop()
        self.ours.close()
        self.theirs.close()

    def datagrams(self) -> list[tuple[list[str], int]]:
        """Take what has come: the records of each datagram, and how many descriptors."""
        taken = []
        while True:
            try:
                data, ancillary, flags, _ = self.theirs.recvmsg(MAX_DATAGRAM, 4096)
            except BlockingIOError:
                return taken
            assert not flags & socket.MSG_CTRUNC
            received = array.array("i")
            for _, _, raw in ancillary:
                received.frombytes(raw)
            for fd in received:
                os.close(fd)
            taken.append((data.decode().split("\n"), len(received)))


@pytest.fixture
def way():
    with Way() as way:
        yield way


def faulty(error: int, nth: int = 1) -> Way:
    return Way(FaultyKernel(nth, error, "send"))


def test_what_was_queued_together_leaves_together(way):
    way.box.put("retire")
    way.box.put("conn 1", os.dup(0), close=True)
    way.box.put("kill 1 TERM")
    assert way.box.waiting() == 3
    assert way.box.flush()
    assert way.box.waiting() == 0
    assert way.datagrams() == [(["retire", "conn 1", "kill 1 TERM"], 1)]


def test_nothing_queued_is_nothing_sent(way):
    assert way.box.flush()
    assert way.datagrams() == []


@pytest.mark.parametrize("count", [1, MAX_FDS - 1, MAX_FDS, MAX_FDS + 1, 3 * MAX_FDS])
def test_no_datagram_has_more_descriptors_than_may_ride(way, count):
    for number in range(count):
        way.box.put(f"conn {number}", os.dup(0), close=True)
    before = way.box.waiting()
    assert way.box.flush()
    assert before == count
    datagrams = way.datagrams()
    assert sum(fds for _, fds in datagrams) == count
    assert [fds for _, fds in datagrams[:-1]] == [MAX_FDS] * (len(datagrams) - 1)
    assert [one for records, _ in datagrams for one in records] == [
        f"conn {number}" for number in range(count)
    ]


def test_no_datagram_is_longer_than_can_be_taken(way):
    records = [f"note{number} " + "x" * 10_000 for number in range(14)]
    for record in records:
        way.box.put(record)
    assert way.box.flush()
    datagrams = way.datagrams()
    assert [one for taken, _ in datagrams for one in taken] == records
    assert [len(taken) for taken, _ in datagrams] == [6, 6, 2]
    assert all(len("\n".join(taken)) <= MAX_DATAGRAM for taken, _ in datagrams)


def test_one_by_one_each_record_is_a_datagram():
    with Way(most=1) as way:
        for number in range(3):
            way.box.put(f"conn {number}", os.dup(0), close=True)
        way.box.put("retire")
        assert way.box.flush()
        assert way.datagrams() == [
            (["conn 0"], 1), (["conn 1"], 1), (["conn 2"], 1), (["retire"], 0)
        ]  # fmt: skip


def test_a_mark_is_the_last_of_its_datagram(way):
    """Who takes in what a dead worker left takes whole datagrams, up to the mark."""
    way.box.put("conn 1", os.dup(0), close=True)
    way.box.put("mark")
    way.box.put("conn 2", os.dup(0), close=True)
    way.box.put("retire")
    assert way.box.flush()
    assert way.datagrams() == [(["conn 1", "mark"], 1), (["conn 2", "retire"], 1)]


def test_a_descriptor_is_closed_when_it_is_sent_and_no_other(way):
    kept, given = os.dup(0), os.dup(0)
    way.box.put("serve 1", kept)
    way.box.put("conn 1", given, close=True)
    os.fstat(given)
    assert way.box.flush()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)
    way.datagrams()
    os.close(kept)


def test_a_full_channel_keeps_the_rest_in_order_and_open():
    with Way(most=1) as way:
        before = fds()
        count = 0
        while way.box.flush():
            count += 1
            way.box.put(f"conn {count} " + "x" * 2000, os.dup(0), close=True)
        assert not way.box.short
        assert not way.box.broken
        way.box.put(f"conn {count + 1}", os.dup(0), close=True)
        assert way.box.waiting() == 2
        assert len(fds() - before) == 2
        poll = select.poll()
        poll.register(way.ours, select.POLLOUT)
        assert not poll.poll(0)  # watching for writing is waiting, not spinning
        heard = way.datagrams()
        assert way.box.flush()
        heard += way.datagrams()
        assert [record[0].split()[1] for record, _ in heard] == [
            str(number) for number in range(1, count + 2)
        ]
        assert fds() == before


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
def test_a_shortage_keeps_everything_for_another_time(error):
    with faulty(error, nth=2) as way:
        before = fds()
        for number in range(MAX_FDS + 5):
            way.box.put(f"conn {number}", os.dup(0), close=True)
        assert not way.box.flush()  # the second datagram
        assert way.box.short
        assert not way.box.broken
        assert way.box.waiting() == 5
        assert len(fds() - before) == 5
        assert way.box.flush()
        assert not way.box.short
        assert fds() == before
        assert [fds for _, fds in way.datagrams()] == [MAX_FDS, 5]


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ECONNRESET])
def test_what_is_meant_for_one_that_has_gone_is_closed_and_its_end_is_told_elsewhere(
    error,
):
    with faulty(error) as way:
        before = fds()
        way.box.put("conn 1", os.dup(0), close=True)
        way.box.put("conn 2", os.dup(0), close=True)
        assert way.box.flush()
        assert fds() == before
        assert not way.box.broken
        assert way.box.waiting() == 0


def test_the_end_of_the_channel_is_such_an_end(way):
    before = fds()
    way.box.put("conn 1", os.dup(0), close=True)
    way.theirs.shutdown(socket.SHUT_RDWR)
    assert way.box.flush()
    assert fds() == before
    assert not way.box.broken


@pytest.mark.parametrize("error", [errno.EBADF, errno.EPERM, errno.EMSGSIZE])
def test_an_error_that_time_does_not_heal_breaks_the_channel(error):
    with faulty(error) as way:
        before = fds()
        way.box.put("conn 1", os.dup(0), close=True)
        assert way.box.flush()
        assert way.box.broken
        assert fds() == before


def test_dropping_twice_closes_once(way):
    fd = os.dup(0)
    way.box.put("conn 1", fd, close=True)
    way.box.drop()
    assert os.dup(0) == fd  # the number is another's by now
    way.box.drop()
    os.close(fd)
