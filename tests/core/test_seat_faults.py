"""Workers that die, seats that are lost, and what is said that is not so."""

from __future__ import annotations

import pytest
from playbook import (
    Playbook,
    accepted,
    ended,
    ends,
    loop,
    manned,
    not_started,
    pool,
    served,
    service,
    started,
    taken,
)

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.lifecycle import State
from superd.core.seats import REFILL_AFTER

ECHO = "tcp echo"


# -- crash ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pool, loop])
def test_a_dead_worker_costs_what_it_had_begun_and_nothing_else(make):
    book = manned(make(workers=1), 1, conns=3).forget()
    book.tell(ev.SeatCrashed(1, 11, 0)).expect(cmd.MarkSeat(1))
    assert ends(book) == {}
    book.tell(ev.SeatKept(1, (2, 3))).expect()
    assert ends(book) == {1: "signal:11"}
    assert book.logged("end")[0]["pid"] == 7001
    book.tell(taken(1, 8001)).tell(served(2, 1)).tell(served(3, 1)).expect()
    assert [line["pid"] for line in book.logged("end")] == [7001, 8001, 8001]
    assert book.core.conns == {}


def test_what_is_sent_after_the_crash_was_not_asked_about_and_goes_on():
    book = manned(pool(), 1, conns=2).tell(ev.SeatCrashed(1, 0, 1)).forget()
    book.tell(accepted(3)).expect(cmd.Send(1, 3, 3, 1))
    book.tell(ev.SeatKept(1, ()))
    assert ends(book) == {1: "exit:1", 2: "exit:1"}
    assert list(book.core.conns) == [3]
    book.tell(taken(1)).tell(served(3, 1))
    assert ends(book)[3] == "exit:0"


def test_what_a_dead_worker_had_ended_is_not_ended_again():
    book = manned(loop(workers=1), 1, conns=2).tell(served(1, 1))
    book.tell(ev.SeatCrashed(1, 9, 0)).tell(ev.SeatKept(1, ()))
    assert ends(book) == {1: "exit:0", 2: "signal:9"}


def test_a_connection_that_ends_while_its_crash_is_looked_into_ends_once():
    """The launcher says so where it has no descriptor for it."""
    book = manned(loop(workers=1), 1, conns=2).tell(ev.SeatCrashed(1, 9, 0))
    book.tell(ev.NotStarted(1, 2, "descriptor", "no descriptor is left", 1))
    book.tell(ev.SeatKept(1, ()))
    assert ends(book) == {1: "signal:9"}
    assert len(book.logged("refuse")) == 1


def test_an_idle_worker_that_dies_costs_nothing():
    book = manned(pool(), 1).tell(served(1, 1)).forget()
    book.tell(ev.SeatCrashed(1, 9, 0)).expect(cmd.MarkSeat(1))
    assert book.core.launchers[1].free == []
    book.tell(ev.SeatKept(1, ())).tell(taken(1, 8001)).expect()
    assert [seat.id for seat in book.core.launchers[1].free] == [1]
    assert book.state() is State.LISTENING


def test_a_crash_is_a_failure_of_the_handler():
    book = manned(loop(workers=1), 1, conns=5)
    for _ in range(5):
        book.tell(ev.SeatCrashed(1, 11, 0)).tell(ev.SeatKept(1, ()))
        book.tell(taken(1)).tell(accepted(100 + len(ends(book))))
    assert book.logged("throttle")[0]["reason"] == "signal:11"


def test_a_crash_is_asked_about_once():
    book = manned(pool(), 1, conns=2).tell(ev.SeatCrashed(1, 9, 0)).forget()
    book.tell(ev.SeatCrashed(1, 11, 0)).expect()
    book.tell(ev.SeatKept(1, (2,)))
    assert ends(book) == {1: "signal:9"}


def test_nobody_sits_down_before_it_is_known_what_was_kept():
    book = manned(pool(), 1).tell(ev.SeatCrashed(1, 9, 0))
    book.tell(taken(1, 8001))
    assert book.core.seats[1].pid is None


def test_a_crash_of_a_worker_whose_launcher_dies_then_is_an_unknown_end():
    book = manned(pool(), 1, conns=2).tell(ev.SeatCrashed(1, 9, 0)).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(
        cmd.RetireSeat(1), cmd.Unpoll(ECHO)
    )
    assert ends(book) == {}
    book.tell(ev.SeatGone(1))
    assert ends(book) == {1: "unknown", 2: "unknown"}
    assert book.core.conns == {}
    assert book.core.seats == {}


def test_a_crash_of_one_worker_is_none_of_the_others():
    book = manned(loop(), 2, conns=4).tell(ev.SeatCrashed(1, 9, 0)).forget()
    book.tell(ev.SeatKept(1, ())).tell(accepted(5)).expect(cmd.Send(1, 5, 3, 2))
    assert ends(book) == {1: "signal:9", 3: "signal:9"}


def test_who_waited_comes_in_when_a_crash_has_freed_a_slot():
    book = manned(pool(per_source=1), 1, conns=2).tell(ev.SeatCrashed(1, 9, 0))
    book.forget().tell(ev.SeatKept(1, ())).expect(cmd.Send(1, 2, 1, 1))
    book.tell(taken(1)).tell(served(2, 1))
    assert book.core.conns == {}


# -- a seat is lost -------------------------------------------------------------------


def test_a_lost_seat_frees_its_slots_and_is_made_anew():
    book = manned(loop(connections=2), 2, conns=2).forget()
    book.tell(ev.SeatGone(1)).expect(cmd.Poll(ECHO))
    assert ends(book) == {1: "unknown"}
    book.pass_time(REFILL_AFTER - 0.1).expect()
    book.pass_time(0.1).expect(cmd.AddSeat(1, 3, False))
    book.tell(taken(3)).tell(accepted(3)).expect(cmd.Send(1, 3, 2, 3), cmd.Unpoll(ECHO))


def test_a_seat_that_was_lost_before_its_worker_came_says_so():
    book = Playbook(pool()).tell(accepted(1)).forget()
    book.tell(ev.SeatGone(1)).expect(cmd.Unpoll(ECHO))
    assert book.logged("refuse")[0]["reason"] == "its worker could not be started"
    assert book.logged("throttle")[0]["reason"] == "its worker could not be started"
    assert book.core.conns == {}


def test_without_any_seat_the_next_connection_asks_for_one():
    book = manned(loop(workers=1), 1).tell(ev.SeatGone(1)).forget()
    book.tell(accepted(2)).expect(cmd.AddSeat(1, 2, False), cmd.Send(1, 2, 1, 2))
    book.pass_time(REFILL_AFTER).expect()


def test_what_grew_meanwhile_counts_for_the_refill():
    book = manned(pool(workers=2, max_workers=3), 2, conns=3).forget()
    book.tell(ev.SeatGone(1)).pass_time(REFILL_AFTER).expect()
    assert len(book.core.launchers[1].seats) == 2


def test_the_refill_of_a_launcher_that_has_gone_or_retires_is_forgotten():
    book = manned(pool(), 1).tell(ev.SeatGone(1)).forget()
    book.tell(ev.Reloaded((pool(user="other"),), 2)).forget()
    book.pass_time(REFILL_AFTER).expect()
    book.tell(ev.LauncherGone(1, "exit:0")).pass_time(REFILL_AFTER).expect()


def test_a_seat_is_lost_once():
    book = manned(pool(), 1).tell(ev.SeatGone(1)).forget()
    book.tell(ev.SeatGone(1)).expect()
    book.pass_time(REFILL_AFTER).expect(cmd.AddSeat(1, 2, True))


# -- the launcher dies ----------------------------------------------------------------


def test_workers_outlive_their_launcher_and_finish_what_they_have():
    book = manned(pool(), 1, conns=3).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(
        cmd.RetireSeat(1), cmd.Unpoll(ECHO)
    )
    book.tell(served(1, 1)).tell(served(2, 1)).expect()
    assert ends(book) == {1: "exit:0", 2: "exit:0"}
    assert book.core.services["echo"].admission.live == 1
    book.tell(ev.SeatGone(1)).expect()
    assert ends(book)[3] == "unknown"
    book.pass_time(1).expect(cmd.Poll(ECHO))
    book.tell(accepted(4)).expect(
        cmd.StartLauncher(2, "echo"), cmd.AddSeat(2, 2, True), cmd.Send(2, 4, 1, 2)
    )


def test_no_pid_of_a_worker_is_watched_when_its_launcher_dies():
    book = manned(loop(workers=1), 1).forget().tell(ev.LauncherGone(1, "signal:9"))
    assert not any(isinstance(one, cmd.WatchOrphan) for one in book.said)
    book.forget().tell(ev.OrphanGone(1)).expect()
    assert list(book.core.conns) == [1]


def test_seats_may_be_lost_before_their_launcher():
    book = Playbook(pool(workers=2)).tell(accepted(1)).tell(accepted(2)).forget()
    book.tell(ev.SeatGone(1)).tell(ev.SeatGone(2)).tell(ev.LauncherGone(1, "exit:1"))
    book.expect(cmd.Unpoll(ECHO))
    assert book.core.conns == {}
    assert book.core.seats == {}
    book.pass_time(1).expect(cmd.Poll(ECHO))


# -- lies -----------------------------------------------------------------------------


@pytest.fixture
def two():
    """Serve two pools: connection 1 is on seat 1 of the first, 2 on 2 of the other."""
    book = Playbook(pool(), pool("other"), service("plain"))
    book.tell(accepted(1)).tell(accepted(2, listener="tcp other"))
    book.tell(accepted(3, listener="tcp plain")).tell(started(3, launcher=3))
    book.tell(ev.LauncherReady(1)).tell(ev.LauncherReady(2))
    return book.tell(taken(1)).tell(taken(2)).forget()


LIES = [
    served(1, 2), served(1, 2, launcher=2), served(2, 1), served(2, 1, launcher=2),
    served(3, 1), served(3, 1, launcher=3), served(99, 1), served(1, 99), ended(1),
    ended(2, launcher=2), not_started(1), started(1), ev.OrphanGone(1),
    ev.NotStarted(1, 2, "x", "y", 1), ev.NotStarted(2, 1, "x", "y", 2),
    ev.Named(1, 1, "x"), ev.Named(1, 2, "x"), ev.Named(3, 3, "x"), ev.Named(1, 99, "x"),
    ev.SeatKept(1, ()), ev.SeatKept(1, (1, 2, 3, 99)), ev.SeatKept(99, (1,)),
    ev.SeatTaken(99, 1), ev.SeatLeft(99), ev.SeatCrashed(99, 9, 0), ev.SeatGone(99),
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_what_is_not_so_changes_nothing(two, lie):
    lines = len(two.log)
    two.tell(lie).expect()
    assert sorted(two.core.conns) == [1, 2, 3]
    assert len(two.log) == lines
    assert [two.core.conns[conn].pid for conn in (1, 2, 3)] == [7001, 7002, 9003]


def test_kept_may_name_strangers(two):
    two.tell(ev.SeatCrashed(1, 9, 0)).tell(ev.SeatKept(1, (2, 3, 99, 10**14)))
    assert ends(two) == {1: "signal:9"}
    assert sorted(two.core.conns) == [2, 3]


def test_who_sits_down_twice_sits_once(two):
    two.tell(taken(1, 4711)).tell(taken(1, 4712)).expect()
    assert len(two.logged("accept")) == 3
    two.tell(served(1, 1)).tell(taken(1, 4713)).tell(taken(1, 4714)).expect()
    assert [seat.id for seat in two.core.launchers[1].free] == [1]


def test_one_that_comes_and_goes_is_free_once(two):
    two.tell(served(1, 1))
    for _ in range(3):
        two.tell(ev.SeatLeft(1)).tell(ev.SeatLeft(1)).tell(taken(1)).tell(taken(1))
    assert [seat.id for seat in two.core.launchers[1].free] == [1]


def test_an_end_is_told_once(two):
    two.tell(served(1, 1)).tell(served(1, 1)).tell(served(1, 1))
    assert two.core.services["echo"].admission.live == 0
    assert len(two.logged("end")) == 1


def test_a_crash_that_was_none_keeps_no_slot(two):
    """A worker may say so of itself: no `kept` follows, and its ends still count."""
    two.tell(ev.SeatCrashed(1, 9, 0)).expect(cmd.MarkSeat(1))
    two.tell(served(1, 1)).expect()
    assert two.core.services["echo"].admission.live == 0
