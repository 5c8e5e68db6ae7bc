"""Seats: connections go to workers, reports come, and no worker harms another service."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING

import pytest
from fakeos import every_fault
from master_rig import FaultyPlayed, Played, Rig, entry, fds, loop, pool

from superd.core.events import StopAsked
from superd.master.generations import ApplyError
from superd.master.launching import CHOKED

if TYPE_CHECKING:
    import socket

KEY = "tcp 127.0.0.1:0 echo"


@pytest.fixture
def rig():
    with Rig() as rig:
        yield rig


def serve(rig: Rig, *services, conns: int = 1) -> Played:
    """Let connections come as far as a worker; returns its end."""
    rig.apply(*services)
    for _ in range(conns):
        rig.connect(KEY)
    rig.launcher()
    rig.until(lambda: len(rig.shell.core.conns) == conns)
    return rig.worker()


def heard(rig: Rig, played: Played, count: int) -> list[list[str]]:
    """Turn until so many records have come."""
    records = []
    rig.until(lambda: records.extend(played.hear()) or len(records) >= count)
    return records


def conns(rig: Rig) -> list[int]:
    return sorted(rig.shell.core.conns)


# -- the way of a connection ----------------------------------------------------------


def test_the_launcher_gets_its_seats_and_the_seat_its_connection(rig):
    rig.apply(pool(workers=2))
    peer = rig.connect(KEY)
    launcher = rig.launcher()
    assert heard(rig, launcher, 2) == [["seat", "1"], ["seat", "2"]]
    host, port = peer.getsockname()
    seat = rig.seat(2)
    assert heard(rig, seat, 1) == [["conn", "1", "1", host, str(port), "-"]]
    assert peer.recv(1) == b""  # the played worker has closed its copy, the last


def test_a_worker_and_its_connections_are_in_the_log(rig):
    seat = serve(rig, pool(), conns=2)
    seat.say("end 1 0 3 1500000", "leave")
    rig.until(lambda: conns(rig) == [2])
    seat.say("hello 4712")
    seat.say("note something to say", "end 2 0 0 -")
    rig.until(lambda: conns(rig) == [])
    accept = rig.logged("accept service=echo")
    assert all("pid=4711" in line for line in accept)
    first, second = rig.logged("end service=echo")
    assert "status=exit:3" in first
    assert "cpu=1.5" in first
    assert "pid=4712" in second
    assert "cpu=" not in second
    assert rig.logged('note service=echo text="something to say"')


def test_what_was_sent_before_hello_is_accepted_at_hello(rig):
    rig.apply(pool())
    rig.connect(KEY)
    rig.launcher()
    rig.settle()
    assert not rig.logged("accept service=echo")
    rig.worker()
    assert rig.logged("accept service=echo conn=1")


def test_a_name_comes_from_the_launcher_and_goes_with_the_connection(rig):
    rig.apply(pool(resolve=True))
    rig.connect(KEY)
    launcher = rig.launcher()
    records = heard(rig, launcher, 2)
    assert ["look", "1", "127.0.0.1"] in records
    seat = rig.worker()
    assert seat.hear() == []
    launcher.say("name 1 a.example")
    assert heard(rig, seat, 1)[0][-1] == "a.example"
    assert rig.logged("accept service=echo conn=1")[0].find("name=a.example") > 0


def test_a_reload_with_a_name_under_way_loses_nobody(rig):
    rig.apply(pool(resolve=True))
    rig.connect(KEY)
    launcher = rig.launcher()
    heard(rig, launcher, 2)
    seat = rig.worker()
    rig.apply(entry())
    assert heard(rig, seat, 2)[1] == ["retire"]
    launcher.say("name 1 too.late")
    seat.say("end 1 0 0 10")
    rig.until(lambda: conns(rig) == [])
    assert rig.logged("end service=echo conn=1")


def test_a_pool_gets_each_record_in_a_datagram_of_its_own_and_a_loop_many(rig):
    for number, make in enumerate((pool, loop), 1):
        rig.apply(make())
        for _ in range(3):
            rig.connect(KEY)
        rig.launcher(number)
        rig.until(lambda: rig.shell.core.services["echo"].admission.live >= 3)
        rig.settle()
        seat = rig.seat(number)
        first = seat.sock.recv(1 << 16).decode()
        assert (first.count("\n") > 0) is (make is loop)
        rig.shell.core.services["echo"].admission.check()
        rig.apply()


def test_a_crash_is_answered_with_a_mark_behind_all_that_was_sent(rig):
    seat = serve(rig, pool(), conns=3)
    rig.until(lambda: rig.shell.seats[1].waiting() == 0)
    seat.say("crash 11 0")
    records = heard(rig, seat, 4)
    assert [words[0] for words in records] == ["conn", "conn", "conn", "mark"]
    seat.say("kept 2,3")
    rig.until(lambda: conns(rig) == [2, 3])
    assert "status=signal:11" in rig.logged("end service=echo conn=1")[0]
    seat.say("hello 4712", "end 2 0 0 0", "end 3 0 0 0")
    rig.until(lambda: conns(rig) == [])


def test_what_comes_in_the_turn_of_a_crash_is_not_in_the_datagram_of_the_mark(rig):
    seat = serve(rig, loop())
    seat.hear()
    seat.say("crash 11 0")
    rig.connect(KEY)
    rig.until(lambda: conns(rig) == [1, 2])
    rig.settle()
    datagrams = [seat.sock.recv(1 << 16), seat.sock.recv(1 << 16)]
    verbs = [one.decode().split(" ")[0] for one in datagrams]
    assert sorted(verbs) == ["conn", "mark"]


def test_a_reload_retires_the_seats_and_their_connections_finish(rig):
    seat = serve(rig, pool(), conns=2)
    seat.hear()
    rig.apply(pool(workers=2))
    assert heard(rig, seat, 1) == [["retire"]]
    assert heard(rig, rig.played[0], 2)[-1] == ["retire"]
    seat.say("end 1 0 0 0")
    seat.say("end 2 0 0 0")
    seat.sock.close()
    rig.until(lambda: 1 not in rig.shell.seats)
    assert len(rig.logged("end service=echo")) == 2
    assert not rig.logged("status=unknown")


@pytest.mark.parametrize("make", [pool, loop])
def test_a_stop_tells_a_loops_worker_and_always_the_launcher(rig, make):
    seat = serve(rig, make())
    seat.hear()
    rig.played[0].hear()
    rig.shell.feed(StopAsked(at_once=True))
    assert ["kill", "1", "KILL", "1"] in heard(rig, rig.played[0], 2)
    told = [["retire"], ["kill", "1", "KILL"]] if make is loop else [["retire"]]
    assert heard(rig, seat, len(told)) == told
    seat.say("end 1 9 0 -")
    rig.until(lambda: rig.loop.status == 0)


def test_a_stop_tells_a_loops_worker_whose_service_has_become_another(rig):
    seat = serve(rig, loop())
    rig.apply(entry())
    assert heard(rig, seat, 2)[1] == ["retire"]
    rig.shell.feed(StopAsked(at_once=True))
    assert heard(rig, seat, 1) == [["kill", "1", "KILL"]]


def test_workers_outlive_their_launcher(rig):
    seat = serve(rig, pool(), conns=2)
    seat.hear()
    rig.played[0].hear()
    rig.played[0].die()
    rig.until(lambda: not rig.shell.launchers)
    assert heard(rig, seat, 1) == [["retire"]]
    assert conns(rig) == [1, 2]
    seat.say("end 1 0 0 0", "end 2 0 0 0")
    rig.until(lambda: conns(rig) == [])
    seat.sock.close()
    rig.until(lambda: not rig.shell.seats)
    assert rig.shell.core.seats == {}


def test_the_last_words_of_one_that_ended_with_ours_unread_are_heard(rig):
    """The close is a reset, and told ahead of the reports."""
    seat = serve(rig, pool())
    rig.played[0].hear()
    seat.say("end 1 0 7 0")
    seat.sock.close()
    rig.until(lambda: 1 not in rig.shell.seats)
    assert "status=exit:7" in rig.logged("end service=echo conn=1")[0]


# -- a seat is lost -------------------------------------------------------------------


def test_the_end_of_a_channel_ends_what_is_there_and_a_seat_follows(rig):
    seat = serve(rig, pool(), conns=2)
    rig.played[0].hear()
    seat.sock.close()
    rig.until(lambda: conns(rig) == [])
    assert len(rig.logged("status=unknown")) == 2
    rig.until(lambda: 2 in rig.shell.seats)
    assert heard(rig, rig.played[0], 1) == [["seat", "2"]]


def test_a_launcher_that_dies_before_it_is_ready_takes_its_seats_along(rig):
    before = fds()
    rig.apply(pool(workers=3))
    rig.connect(KEY)
    launcher = rig.launcher(ready=False)
    for number in (1, 2, 3):
        rig.seat(number).sock.close()
    launcher.die()
    rig.until(lambda: not rig.shell.launchers and not rig.shell.seats)
    assert conns(rig) == []
    assert rig.shell.core.seats == {}
    assert len(rig.logged("refuse service=echo conn=1")) == 1
    assert len(fds()) <= len(before) + 4  # the listener, the peer, and two of the rig


def test_a_seat_that_cannot_be_made_is_made_later():
    with Rig(FaultyPlayed(2, errno.EMFILE, "socketpair")) as rig:
        rig.apply(pool())
        peer = rig.connect(KEY)
        rig.launcher()
        assert peer.recv(1) == b""
        rig.until(lambda: conns(rig) == [])
        assert rig.logged("seat: [Errno 24]")
        rig.until(lambda: 2 in rig.shell.seats)
        rig.connect(KEY)
        assert heard(rig, rig.worker(2), 1)[0][:2] == ["conn", "2"]


def test_whatever_call_fails_at_the_start_of_a_pool_nothing_is_left_and_it_recovers():
    def scenario(kernel) -> None:
        with Rig(kernel) as rig:
            try:
                rig.apply(pool(workers=2))
            except ApplyError:
                rig.apply(pool(workers=2))
            tried = 0
            while not rig.logged("end service=echo"):
                tried += 1
                assert tried < 5
                peer = rig.connect(KEY)
                rig.until(lambda peer=peer: play(rig) or is_over(peer))
                rig.until(lambda: play(rig) or not rig.shell.core.conns)
                rig.until(lambda: play(rig) or rig.shell.listeners[KEY].polled)
            assert not any(" bug " in line for line in rig.lines)

    def is_over(peer: socket.socket) -> bool:
        return bool(select.select([peer], [], [], 0)[0])

    def play(rig: Rig) -> None:
        """Be every launcher and every worker, for a moment."""
        for number, process in list(rig.shell.launchers.items()):
            if not process.ready and len(rig.played) >= number:
                [played] = [one for one in rig.played if one.pid == process.pid]
                played.say("ready")
        for number in list(rig.shell.seats):
            seat = rig.shell.core.seats.get(number)
            if seat is not None and seat.pid is None:
                rig.seat(number).say(f"hello {4711 + number}")
            for words in rig.seat(number).hear():
                if words[0] == "conn":
                    rig.seat(number).say(f"end {words[1]} 0 0 1000")

    calls = every_fault(scenario, [errno.EMFILE], make=FaultyPlayed)
    assert calls >= 10


# -- fullness -------------------------------------------------------------------------


def fill(rig: Rig, number: int = 1) -> None:
    """Send so much to a seat that its channel takes no more."""
    seat = rig.shell.seats[number]
    while not seat.full:
        for _ in range(20):
            seat.put("x" * 3000)
        rig.shell._flush_seat(seat)
        if seat.waiting() >= CHOKED:
            return


def drain(rig: Rig, played: Played, holds) -> None:
    """Read and turn until a condition holds."""
    while not holds():
        rig.until(lambda: played.hear() or holds())


def test_a_full_seat_is_not_polled_until_it_is_read(rig):
    seat = serve(rig, pool(connections=1000))
    fill(rig)
    assert rig.shell.seats[1].full
    for _ in range(CHOKED):
        rig.shell.seats[1].put("x")
    rig.shell._flush_seat(rig.shell.seats[1])
    assert rig.shell.core.services["echo"].choked
    assert not rig.shell.listeners[KEY].polled
    drain(rig, seat, lambda: not rig.shell.core.services["echo"].choked)
    assert rig.shell.listeners[KEY].polled
    drain(rig, seat, lambda: rig.shell.seats[1].waiting() == 0)
    assert not rig.shell.seats[1].full


def test_a_choked_seat_that_is_lost_chokes_nobody_any_more(rig):
    seat = serve(rig, pool(warm=True))
    rig.played[0].hear()
    fill(rig)
    for _ in range(CHOKED):
        rig.shell.seats[1].put("x")
    rig.shell._flush_seat(rig.shell.seats[1])
    assert not rig.shell.listeners[KEY].polled
    seat.say("end 1 0 0 0")
    seat.sock.close()
    rig.until(lambda: 1 not in rig.shell.seats)
    assert rig.shell.listeners[KEY].polled


def test_one_seat_that_takes_again_does_not_free_one_that_is_still_full(rig):
    serve(rig, pool(workers=2))
    one, other = rig.shell.seats[1], rig.shell.seats[2]
    for number, seat in ((1, one), (2, other)):
        fill(rig, number)
        for _ in range(CHOKED):
            seat.put("x")
        rig.shell._flush_seat(seat)
    assert one.choked
    assert other.choked
    drain(rig, rig.seat(1), lambda: not one.choked)
    assert rig.shell.core.services["echo"].choked
    drain(rig, rig.seat(2), lambda: not other.choked)
    assert not rig.shell.core.services["echo"].choked


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
def test_a_shortage_is_tried_again_and_does_not_spin(error):
    with Rig(FaultyPlayed(2, error, "send")) as rig:  # the first is the launcher's
        rig.apply(pool(warm=True))
        rig.launcher()
        seat = rig.worker()
        rig.connect(KEY)
        rig.until(lambda: rig.shell.seats[1].short)
        # Watched for writing, which it is ready for, it would be called in every turn.
        assert not rig.shell.seats[1].full
        assert heard(rig, seat, 1)[0][:2] == ["conn", "1"]


def test_an_error_that_time_does_not_heal_ends_the_launcher_and_the_seat():
    with Rig(FaultyPlayed(2, errno.EACCES, "send")) as rig:
        rig.apply(pool(warm=True))
        rig.launcher()
        rig.worker()
        peer = rig.connect(KEY)
        rig.until(lambda: not rig.shell.launchers)
        assert peer.recv(1) == b""
        assert conns(rig) == []
        assert rig.shell.core.seats == {}
        assert rig.logged("status=signal:9")


def test_a_seat_that_breaks_when_it_is_writable_and_readable_is_closed_once():
    kernel = FaultyPlayed(10**9, errno.EACCES, "send")
    with Rig(kernel) as rig:
        seat = serve(rig, pool())
        rig.played[0].hear()
        fill(rig)
        seat.hear()
        seat.say("end 1 0 0 0")
        kernel._nth = len(kernel.calls) + 1
        rig.until(lambda: 1 not in rig.shell.seats)
        rig.until(lambda: not rig.shell.launchers)
        assert conns(rig) == []
