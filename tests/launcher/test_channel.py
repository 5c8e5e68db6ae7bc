"""The channel: batches, descriptors, a master that does not read, one that is gone."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path

import pytest
from daemon_under_test import DEADLINE, eventually, read_all

from superd.core.protocol import parse_reports
from superd.launcher.channel import Channel


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs.detach())
    yield ours, channel
    ours.close()
    os.close(channel.fileno())
    channel._sock.detach()


def test_several_records_with_several_descriptors_arrive_in_one_datagram(launcher):
    it = launcher()
    pairs = [it.pair() for _ in range(60)]
    it.put(
        *(it.record() for _ in pairs),
        fds=tuple(accepted.fileno() for _, accepted in pairs),
    )
    for number, (peer, accepted) in enumerate(pairs):
        accepted.close()
        with peer:
            peer.sendall(b"%d" % number)
            peer.shutdown(socket.SHUT_WR)
            assert read_all(peer) == b"%d" % number, "each has its own descriptor"
    it.wait("^end ", count=60)
    ends = {one.split()[1] for one in it.records if one.startswith("end ")}
    assert ends == {str(number) for number in range(1, 61)}


def test_records_with_and_without_descriptors_mix(launcher):
    it = launcher()
    first, one = it.pair()
    second, two = it.pair()
    with one, two:
        fds = (one.fileno(), two.fileno())
        it.put(it.record(), "kill 77 TERM", it.record(), "kill 1 KILL", fds=fds)
    assert it.wait("^end 1 ").startswith("end 1 9 0 ")
    assert read_all(first) == b""
    second.sendall(b"lives")
    second.shutdown(socket.SHUT_WR)
    assert read_all(second) == b"lives"


def test_received_descriptors_are_close_on_exec(pair):
    # Regression: cpython's socket.recv_fds takes flags and drops them.
    ours, channel = pair
    with open(os.devnull) as file:
        socket.send_fds(ours, [b"conn 1 1 h 2\nkill 1 TERM"], [file.fileno()] * 3)
    records, fds = channel.receive()
    assert records == [["conn", "1", "1", "h", "2"], ["kill", "1", "TERM"]]
    assert [os.get_inheritable(fd) for fd in fds] == [False] * 3
    for fd in fds:
        os.close(fd)
    assert not os.get_inheritable(channel.fileno())


@pytest.mark.parametrize("rlimits", [{}, {"nofile": [32, 64]}], ids=["spawn", "fork"])
def test_no_connection_is_found_in_the_handler_of_another(launcher, rlimits):
    it = launcher(exec=["/bin/ls", "/proc/self/fd"], rlimits=rlimits)
    waiting = [it.pair() for _ in range(8)]
    it.put("kill 99 TERM", fds=tuple(two.fileno() for _, two in waiting))
    for _, two in waiting:
        two.close()
    assert it.talk().split() == [b"0", b"1", b"2", b"3"], "3 is ls's own folder"


def test_nothing_now_and_the_end_are_told_apart(pair):
    ours, channel = pair
    assert channel.receive() is None
    assert channel.open
    ours.close()
    assert channel.receive() is None
    assert not channel.open


def test_reports_of_a_full_channel_wait_in_order_and_none_is_lost(pair):
    ours, channel = pair
    sent = [f"end {number} 0 0 0" for number in range(60000)]
    for record in sent:
        channel.report(record)
    assert not channel.flush(), "more than a channel holds"
    heard = []
    while len(heard) < len(sent):
        data = ours.recv(1 << 16)
        assert len(parse_reports(data)) > 1
        heard += data.decode().split("\n")
        channel.flush()
    assert heard == sent
    assert channel.flush()


def test_text_of_any_kind_is_a_record_that_the_master_accepts(pair):
    ours, channel = pair
    channel.note("h\xe4h\nend 1 0 0 0\r\x00 \U0001f600" + "x" * 5000)
    channel.refuse("stage", "\udcff\n" * 3000)
    channel.flush()
    for verb in (b"refuse stage ", b"note "):
        data = ours.recv(1 << 16)
        assert data.startswith(verb)
        assert len(parse_reports(data)) == 1


def test_with_the_master_gone_reports_go_nowhere_and_pile_up_nowhere(pair):
    ours, channel = pair
    ours.close()
    for _ in range(3):
        channel.report("end 1 0 0 0")
        assert channel.flush()
    assert channel._out == []
    channel.refuse("stage", "text")  # and is not an error either


def _choke(it):
    """Let the launcher's reports fill the channel; returns their number."""
    # A record whose descriptor was lost is the cheapest way to a report.
    number = 30000
    for first in range(0, number, 100):
        records = [f"conn {n} 1 192.0.2.1 9" for n in range(first, first + 100)]
        while True:
            try:
                it.put(*records)
                break
            except BlockingIOError:
                poll = select.poll()
                poll.register(it.sock, select.POLLOUT)
                assert poll.poll(DEADLINE * 1000), "it does not take them"
    return number


def test_a_master_that_does_not_read_gets_every_report_later_and_nothing_spins(
    launcher,
):
    it = launcher()
    number = _choke(it)
    eventually(lambda: _is_idle(it), "the launcher has taken what was sent")
    before, start = it.cpu(), time.monotonic()
    with it.connect() as peer:  # it still serves
        peer.sendall(b"served")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"served"
    eventually(lambda: time.monotonic() - start > 0.5, "half a second")
    assert it.cpu() - before < 0.2
    it.wait("^end 1 0 0 ")
    fails = [one.split()[1] for one in it.records if one.startswith("fail ")]
    assert fails == [str(n) for n in range(number)]


def _is_idle(it):
    before = it.cpu()
    fields = Path(f"/proc/{it.pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "S" and it.cpu() == before


def test_reports_that_wait_for_room_still_arrive_when_the_launcher_retires(launcher):
    # Regression: the launcher ended with reports that the full channel had not taken.
    it = launcher()
    number = _choke(it)
    it.put("retire")
    assert it.wait(rf"^fail {number - 1} ")
    assert it.wait_end() == 0
    assert len([one for one in it.records if one.startswith("fail ")]) == number


def test_connections_in_flight_are_served_when_the_master_dies_with_reports_unread(
    launcher,
):
    # Regression: the kernel says ECONNRESET first, and what was sent before was dropped.
    it = launcher()
    busy = it.connect()
    it.handler(1)
    busy.shutdown(socket.SHUT_WR)
    assert read_all(busy) == b""
    eventually(lambda: _readable(it), "a report is there, unread")
    os.kill(it.pid, 19)
    peer = it.connect()
    it.hang_up()
    os.kill(it.pid, 18)
    peer.sendall(b"in flight")
    peer.shutdown(socket.SHUT_WR)
    assert read_all(peer) == b"in flight"
    assert it.wait_end() == 0


def _readable(it):
    try:
        return it.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
