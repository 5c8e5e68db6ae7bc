"""Seats: who gets which connection, and what a dead worker costs."""

from __future__ import annotations

import pytest
from playbook import (
    Playbook,
    accepted,
    ended,
    ends,
    loop,
    manned,
    pool,
    served,
    service,
    started,
    taken,
)

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.launchers import ANSWER_DEADLINE
from superd.core.lifecycle import State
from superd.core.seats import REFILL_AFTER, SHRINK_AFTER

ECHO = "tcp echo"


# -- a connection's way ---------------------------------------------------------------


def test_the_first_connection_starts_the_launcher_its_workers_and_is_sent_to_the_last():
    book = Playbook(pool(workers=2)).forget().tell(accepted(1))
    book.expect(
        cmd.StartLauncher(1, "echo"),
        cmd.AddSeat(1, 1, True),
        cmd.AddSeat(1, 2, True),
        cmd.Send(1, 1, 1, 2),
    )
    assert book.logged("accept") == []


def test_a_loops_workers_take_more_than_one_at_a_time():
    book = Playbook(loop()).forget().tell(accepted(1))
    book.expect(
        cmd.StartLauncher(1, "echo"),
        cmd.AddSeat(1, 1, False),
        cmd.AddSeat(1, 2, False),
        cmd.Send(1, 1, 1, 1),
    )


def test_a_warm_service_has_its_workers_before_anybody_comes():
    book = Playbook(pool(workers=2, warm=True))
    book.expect(
        cmd.StartLauncher(1, "echo"),
        cmd.AddSeat(1, 1, True),
        cmd.AddSeat(1, 2, True),
        cmd.Poll(ECHO),
    )


@pytest.mark.parametrize("make", [pool, loop])
def test_hello_is_the_begin_of_what_was_sent_before_and_of_what_comes_after(make):
    book = Playbook(make(workers=1)).tell(accepted(1)).tell(accepted(2))
    book.tell(ev.LauncherReady(1))
    assert book.logged("accept") == []
    book.tell(taken(1))
    assert [line["pid"] for line in book.logged("accept")] == [7001, 7001]
    book.tell(accepted(3))
    assert [line["conn"] for line in book.logged("accept")] == [1, 2, 3]


def test_the_last_worker_to_be_done_is_the_next_to_work():
    book = manned(pool(workers=3), 3, conns=3).forget()
    for conn, seat in ((1, 3), (3, 1), (2, 2)):
        book.tell(served(conn, seat))
    book.tell(accepted(4)).tell(accepted(5)).tell(accepted(6))
    book.expect(cmd.Send(1, 4, 1, 2), cmd.Send(1, 5, 2, 1), cmd.Send(1, 6, 3, 3))


def test_a_pool_whose_workers_are_busy_grows_to_max_workers_and_then_queues():
    book = manned(pool(workers=1, max_workers=3), 1).forget()
    book.tell(accepted(2)).expect(cmd.AddSeat(1, 2, True), cmd.Send(1, 2, 2, 2))
    book.tell(accepted(3)).expect(cmd.AddSeat(1, 3, True), cmd.Send(1, 3, 3, 3))
    book.tell(accepted(4)).tell(accepted(5)).tell(accepted(6)).tell(accepted(7))
    assert sorted(len(seat.conns) for seat in book.core.seats.values()) == [2, 2, 3]


def test_a_pool_queues_behind_whoever_has_the_least():
    book = manned(pool(workers=2), 2, conns=3)
    assert sorted(len(seat.conns) for seat in book.core.seats.values()) == [1, 2]
    book.tell(accepted(4))
    assert sorted(len(seat.conns) for seat in book.core.seats.values()) == [2, 2]


def test_a_pool_queues_on_a_seat_whose_worker_starts_before_a_busy_one():
    """It is soon there; a worker with a connection may have it for ever."""
    book = manned(pool(workers=1, max_workers=2), 1).forget()
    book.tell(accepted(2)).expect(cmd.AddSeat(1, 2, True), cmd.Send(1, 2, 2, 2))
    book.tell(ev.SeatCrashed(2, 9, 0)).tell(ev.SeatKept(2, ())).forget()
    book.tell(accepted(3)).expect(cmd.Send(1, 3, 2, 2))


def test_a_seat_with_a_queue_is_free_only_when_the_queue_has_ended():
    book = manned(pool(), 1, conns=2).forget()
    book.tell(served(1, 1)).tell(accepted(3)).expect(cmd.Send(1, 3, 2, 1))
    book.tell(served(2, 1)).tell(served(3, 1))
    assert [seat.id for seat in book.core.launchers[1].free] == [1]


def test_a_loop_gives_to_the_least_loaded_and_never_grows():
    book = manned(loop(), 2).forget()
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2, 2))
    book.tell(accepted(3)).expect(cmd.Send(1, 3, 3, 1))
    book.tell(served(2, 2)).tell(accepted(4)).expect(cmd.Send(1, 4, 3, 2))
    book.tell(served(4, 2)).tell(accepted(5)).expect(cmd.Send(1, 5, 3, 2))


def test_a_loop_prefers_a_worker_that_is_there_to_an_empty_seat():
    book = manned(loop(), 1).forget()
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2, 1))
    book.tell(taken(2)).tell(accepted(3)).expect(cmd.Send(1, 3, 3, 2))


def test_what_does_not_begin_on_an_empty_seat_ends_the_launcher():
    book = Playbook(pool()).tell(accepted(1)).tell(ev.LauncherReady(1)).forget()
    book.pass_time(ANSWER_DEADLINE - 0.1).expect()
    book.pass_time(0.1).expect(cmd.KillLauncher(1))


def test_what_waits_behind_a_busy_worker_waits_without_a_deadline():
    book = manned(pool(), 1, conns=2).forget()
    book.pass_time(10 * ANSWER_DEADLINE).expect()


def test_limits_hold_for_seats_as_for_processes():
    book = manned(pool(connections=2), 1, conns=1).forget()
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2, 1), cmd.Unpoll(ECHO))
    assert book.state() is State.FULL
    book.tell(served(1, 1)).expect(cmd.Poll(ECHO))


def test_an_end_lets_in_who_waited_for_its_source():
    book = manned(loop(per_source=1), 2).tell(accepted(2)).forget()
    book.tell(served(1, 1)).expect(cmd.Send(1, 2, 1, 1))


def test_the_statuses_of_workers_throttle_as_those_of_processes():
    book = manned(pool(), 1).forget()
    book.tell(served(1, 1, status=100)).expect(cmd.Unpoll(ECHO))
    assert book.state() is State.THROTTLED
    assert book.logged("end")[0]["status"] == "exit:100(setup)"


def test_a_loops_worker_cannot_tell_the_time_of_one_connection():
    book = manned(loop(workers=1), 1)
    book.tell(ev.Ended(1, 1, 0, 0, None, True, 1))
    assert "cpu" not in book.logged("end")[0]


def test_a_worker_that_could_not_take_one_is_no_end_of_the_others():
    book = manned(loop(workers=1), 1, conns=2)
    book.tell(ev.NotStarted(1, 1, "descriptor", "no descriptor is left", 1))
    assert list(book.core.conns) == [2]
    assert "descriptor" in str(book.logged("refuse")[0]["reason"])


# -- names ----------------------------------------------------------------------------


def test_a_name_is_looked_up_before_a_worker_gets_the_connection():
    book = Playbook(pool(resolve=True)).forget().tell(accepted(1))
    book.expect(cmd.StartLauncher(1, "echo"), cmd.AddSeat(1, 1, True), cmd.Look(1, 1))
    book.tell(ev.LauncherReady(1)).tell(taken(1)).expect()
    book.tell(ev.Named(1, 1, "a.example")).expect(cmd.Send(1, 1, 1, 1))
    assert book.logged("accept")[0]["name"] == "a.example"


def test_a_unix_peer_has_no_name_to_look_up():
    book = Playbook(loop(resolve=True, workers=1)).forget()
    book.tell(accepted(1, "unix:1000")).expect(
        cmd.StartLauncher(1, "echo"), cmd.AddSeat(1, 1, False), cmd.Send(1, 1, 1, 1)
    )


def test_a_second_name_changes_nothing():
    book = manned(pool(resolve=True), 1).tell(ev.Named(1, 1, "")).forget()
    book.tell(ev.Named(1, 1, "b.example")).expect()
    assert book.core.conns[1].name == ""


def test_a_name_that_never_comes_ends_the_launcher():
    book = manned(pool(resolve=True), 1).forget()
    book.pass_time(ANSWER_DEADLINE).expect(cmd.KillLauncher(1))
    book.tell(ev.LauncherGone(1, "signal:9")).expect(
        cmd.Close(1), cmd.RetireSeat(1), cmd.Unpoll(ECHO)
    )
    assert book.core.conns == {}


@pytest.mark.parametrize(
    "services",
    [
        (service(),),
        (pool(user="other"),),
        (pool(user="other", resolve=True),),
        (loop(resolve=True),),
        (),
    ],
    ids=["process", "no name", "renewed", "loop", "removed"],
)
def test_a_reload_seats_who_waits_for_a_name_while_there_is_a_seat(services):
    """Its launcher retires: no seat is there any more when the name comes."""
    book = manned(pool(resolve=True), 1).forget()
    book.tell(ev.Reloaded(services, 2))
    commands = [one for one in book.said if not isinstance(one, cmd.CloseListener)]
    assert commands[:3] == [
        cmd.Send(1, 1, 1, 1), cmd.RetireSeat(1), cmd.RetireLauncher(1)
    ]  # fmt: skip
    book.forget().tell(ev.Named(1, 1, "late.example")).expect()
    book.tell(served(1, 1)).expect()
    assert book.core.conns == {}


def test_a_launcher_of_processes_finds_no_names():
    """Even where its service has become a pool: it has no seat to give it to."""
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherReady(1))
    book.tell(ev.Named(1, 1, "x")).tell(ev.Reloaded((pool(),), 2)).forget()
    book.tell(ev.Named(1, 1, "x")).expect()
    book.tell(started(1)).tell(ended(1)).expect()
    assert book.core.conns == {}


# -- fewer ----------------------------------------------------------------------------


def test_a_worker_too_many_leaves_after_half_a_minute_without_work():
    book = manned(pool(workers=1, max_workers=3), 1, conns=3)
    book.tell(taken(2)).tell(taken(3))
    book.tell(served(2, 2)).pass_time(10).tell(served(1, 1)).tell(served(3, 3))
    book.forget().pass_time(SHRINK_AFTER - 10.1).expect()
    book.pass_time(0.1).expect(cmd.RetireSeat(2))
    book.pass_time(9.9).expect()
    book.pass_time(0.1).expect(cmd.RetireSeat(1))
    book.tell(ev.SeatGone(2)).tell(ev.SeatGone(1)).pass_time(300).expect()
    assert list(book.core.seats) == [3]


def test_a_worker_that_works_now_and_then_stays():
    book = manned(pool(workers=1, max_workers=2), 1, conns=2).tell(taken(2))
    book.tell(served(1, 1)).tell(served(2, 2)).forget()
    for conn in range(10, 20, 2):
        book.tell(accepted(conn)).tell(accepted(conn + 1))
        book.tell(served(conn, 2)).tell(served(conn + 1, 1)).forget()
        book.pass_time(SHRINK_AFTER - 1).expect()


def test_a_busy_worker_is_not_retired_however_many_there_are():
    book = manned(pool(workers=1, max_workers=2), 1, conns=2).tell(taken(2)).forget()
    book.pass_time(10 * SHRINK_AFTER).expect()
    book.tell(served(1, 1)).pass_time(SHRINK_AFTER).expect(cmd.RetireSeat(1))


def test_ten_thousand_connections_leave_one_deadline_for_shrinking():
    book = manned(pool(workers=1, max_workers=2), 1, conns=2).tell(taken(2))
    book.tell(served(1, 1)).tell(served(2, 2))
    for conn in range(3, 10_000):
        book.now += 0.001
        book.core.handle(accepted(conn), book.now)
        book.core.handle(served(conn, 2), book.now)
    assert len(book.core.deadlines._heap) < 10


# -- renewal --------------------------------------------------------------------------


def test_a_worker_that_leaves_gets_nothing_while_another_is_there():
    book = manned(pool(workers=2), 2, conns=2).forget()
    book.tell(served(1, 2)).tell(ev.SeatLeft(2))
    book.tell(served(2, 1)).tell(accepted(3)).expect(cmd.Send(1, 3, 1, 1))
    book.tell(taken(2, 8002)).tell(accepted(4)).expect(cmd.Send(1, 4, 2, 2))


def test_what_was_sent_to_one_that_was_leaving_is_the_next_ones():
    book = manned(pool(), 1).tell(served(1, 1)).tell(accepted(2))
    book.tell(ev.SeatLeft(1))
    assert list(book.core.conns) == [2]
    book.tell(taken(1, 8001)).tell(served(2, 1))
    assert ends(book) == {1: "exit:0", 2: "exit:0"}
    assert book.logged("end")[1]["pid"] == 8001
    assert len(book.logged("accept")) == 2
    assert [seat.id for seat in book.core.launchers[1].free] == [1]


# -- reload and stop ------------------------------------------------------------------


def test_a_reload_that_changes_no_worker_leaves_them():
    book = manned(pool(), 1, conns=2).forget()
    book.tell(ev.Reloaded((pool(connections=7),), 2)).expect()
    book.tell(served(1, 1)).tell(served(2, 1)).tell(accepted(3))
    book.expect(cmd.Send(1, 3, 1, 1))


@pytest.mark.parametrize(
    "after", [{"workers": 2}, {"max_workers": 4}, {"user": "other"}], ids=str
)
def test_a_reload_that_changes_the_workers_lets_the_old_ones_finish(after):
    book = manned(pool(), 1, conns=2).forget()
    spec = pool(**after)
    book.tell(ev.Reloaded((spec,), 2))
    book.expect(cmd.RetireSeat(1), cmd.RetireLauncher(1))
    book.tell(accepted(3))
    seats = range(2, 2 + spec.workers)
    book.expect(
        cmd.StartLauncher(2, "echo"),
        *(cmd.AddSeat(2, seat, True) for seat in seats),
        cmd.Send(2, 3, 3, seats[-1]),
    )
    book.tell(served(1, 1)).tell(served(2, 1)).tell(ev.SeatGone(1)).expect()
    book.tell(ev.LauncherGone(1, "exit:0")).pass_time(10).expect()
    assert list(book.core.conns) == [3]
    assert book.logged("throttle") == []


def test_a_pool_that_becomes_processes_finishes_as_a_pool_and_back():
    book = manned(pool(workers=1, max_workers=2), 1, conns=2).forget()
    book.tell(taken(2)).tell(ev.Reloaded((service(),), 2))
    book.expect(cmd.RetireSeat(1), cmd.RetireSeat(2), cmd.RetireLauncher(1))
    book.tell(accepted(3)).expect(cmd.StartLauncher(2, "echo"), cmd.Send(2, 3, 3))
    book.tell(served(1, 1)).tell(ev.SeatCrashed(2, 9, 0)).expect(cmd.MarkSeat(2))
    book.tell(ev.SeatKept(2, ())).tell(ev.SeatGone(1)).tell(ev.SeatGone(2)).expect()
    assert ends(book) == {1: "exit:0", 2: "signal:9"}
    book.tell(started(3, launcher=2)).tell(ev.Reloaded((loop(workers=1),), 3))
    book.forget().tell(accepted(4)).expect(
        cmd.StartLauncher(3, "echo"), cmd.AddSeat(3, 3, False), cmd.Send(3, 4, 2, 3)
    )
    book.tell(ended(3, launcher=2)).tell(served(4, 3, launcher=3))
    assert book.core.conns == {}


def test_an_idle_pool_is_retired_whole():
    book = manned(pool(workers=2, launcher_idle=60.0), 2).tell(served(1, 2)).forget()
    book.pass_time(60).expect(
        cmd.RetireSeat(1), cmd.RetireSeat(2), cmd.RetireLauncher(1)
    )
    book.tell(ev.SeatGone(1)).tell(ev.SeatGone(2)).pass_time(REFILL_AFTER).expect()


def test_a_removed_service_drains_over_its_seats():
    book = manned(loop(), 2, conns=2).forget().tell(ev.Reloaded((), 2))
    book.expect(
        cmd.CloseListener(ECHO),
        *(cmd.RetireSeat(1), cmd.RetireSeat(2), cmd.RetireLauncher(1)),
    )
    book.tell(served(1, 1)).tell(ev.SeatGone(1)).tell(served(2, 2))
    book.tell(ev.SeatGone(2)).tell(ev.LauncherGone(1, "exit:0")).expect()
    assert book.core.leaving == []


@pytest.mark.parametrize("make", [pool, loop])
def test_a_stop_signals_over_the_seats(make):
    book = manned(make(workers=1, stop=5.0), 1, conns=2).forget()
    book.tell(ev.StopAsked(at_once=False)).expect(
        cmd.CloseListener(ECHO), cmd.RetireSeat(1), cmd.RetireLauncher(1)
    )
    book.pass_time(5).expect(cmd.Signal(1, 1, "TERM", 1), cmd.Signal(1, 2, "TERM", 1))
    book.tell(served(1, 1)).pass_time(2).expect(cmd.Signal(1, 2, "KILL", 1))
    book.tell(ev.SeatCrashed(1, 9, 0)).expect(cmd.MarkSeat(1))
    book.tell(ev.SeatKept(1, ())).tell(ev.SeatGone(1)).expect()
    book.tell(ev.LauncherGone(1, "exit:0")).expect(cmd.Exit(0))
    assert ends(book) == {1: "exit:0", 2: "signal:9"}


def test_a_stop_in_haste_does_not_wait_for_seats_without_connections():
    book = manned(pool(), 1, conns=2).tell(served(1, 1)).forget()
    book.tell(ev.StopAsked(at_once=True)).expect(
        *(cmd.CloseListener(ECHO), cmd.RetireSeat(1), cmd.RetireLauncher(1)),
        cmd.Signal(1, 2, "KILL", 1),
    )
    book.tell(served(2, 1)).expect(cmd.Exit(0))
