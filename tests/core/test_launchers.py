"""Launchers: started when wanted, mourned when dead, let go when idle."""

from __future__ import annotations

from playbook import Playbook, accepted, ended, not_started, service, started

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.launchers import ANSWER_DEADLINE, READY_DEADLINE
from superd.core.lifecycle import State

ECHO = "tcp echo"


def test_a_launcher_that_dies_closes_what_it_has_not_started():
    book = Playbook(service()).tell(accepted(1)).tell(accepted(2)).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(
        cmd.Close(1), cmd.Close(2), cmd.Unpoll(ECHO)
    )
    assert book.core.conns == {}


def test_what_a_dead_launcher_has_started_keeps_its_slot_as_an_orphan():
    book = Playbook(service(connections=1)).tell(accepted(1)).tell(started(1)).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(cmd.WatchOrphan(1, 9001))
    book.pass_time(5).expect()  # released, and full
    assert book.state() is State.FULL
    book.tell(ev.OrphanGone(1)).expect(cmd.Poll(ECHO))
    assert book.logged("end")[0]["status"] == "unknown"


def test_an_orphan_ends_once():
    book = Playbook(service()).tell(accepted(1)).tell(started(1))
    book.tell(ev.LauncherGone(1, "signal:9")).tell(ev.OrphanGone(1))
    book.tell(ev.OrphanGone(1)).tell(ended(1))
    assert book.core.conns == {}


def test_an_orphan_with_a_listener_keeps_it():
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).tell(started(1))
    book.tell(ev.LauncherGone(1, "signal:9")).forget()
    book.pass_time(60).expect()
    book.tell(ev.OrphanGone(1)).expect(cmd.Poll(ECHO))
    assert book.logged("end")[0]["listener"] == ECHO


def test_a_listener_comes_back_from_a_launcher_that_died_before_it_started():
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(cmd.Close(1))
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_a_launcher_that_keeps_dying_is_started_ever_more_rarely():
    book = Playbook(service())
    for launcher in range(1, 10):
        book.tell(accepted(launcher)).forget()
        book.tell(ev.LauncherGone(launcher, "exit:70")).pass_time(60)
    assert [line["delay"] for line in book.logged("throttle")] == [
        *(1, 2, 4, 8, 16, 32, 60, 60, 60)
    ]
    assert book.state() is State.LISTENING
    book.forget().tell(accepted(99)).expect(
        cmd.StartLauncher(10, "echo"), cmd.Send(10, 99, 1)
    )


def test_a_launcher_that_cannot_become_its_service_says_where_it_is_written():
    book = Playbook(service()).tell(accepted(1)).forget()
    book.tell(ev.LauncherRefused(1, "user", "no such user"))
    book.tell(ev.LauncherGone(1, "exit:1")).expect(cmd.Close(1), cmd.Unpoll(ECHO))
    first, second = book.logged("throttle")
    assert (first["reason"], first["place"]) == (
        "user: no such user",
        "x.yaml:1:1:echo",
    )
    assert second["reason"] == "launcher ended: exit:1"


def test_a_launcher_that_never_gets_ready_is_killed():
    book = Playbook(service()).tell(accepted(1)).forget()
    book.pass_time(READY_DEADLINE - 0.1).expect()
    book.pass_time(0.1).expect(cmd.KillLauncher(1))


def test_a_launcher_that_is_ready_in_time_is_left_alone():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherReady(1)).forget()
    book.tell(started(1)).pass_time(READY_DEADLINE * 2).expect()


def test_a_launcher_that_says_nothing_of_a_connection_is_ended_after_a_while():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherReady(1))
    book.tell(started(1)).pass_time(10).tell(accepted(2)).forget()
    book.pass_time(ANSWER_DEADLINE - 0.1).expect()
    book.pass_time(0.1).expect(cmd.KillLauncher(1))
    book.tell(ev.LauncherGone(1, "signal:9"))
    assert book.logged("kill")[0]["reason"] == "no answer for 30 s"
    assert book.logged("refuse")[0]["reason"] == "launcher ended: signal:9"


def test_a_launcher_that_answers_every_connection_leaves_one_deadline():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherReady(1))
    for conn in range(2, 500):
        book.tell(started(conn - 1)).tell(ended(conn - 1)).tell(accepted(conn))
    assert len(book.core.deadlines._heap) < 5


def test_events_of_a_launcher_that_is_gone_change_nothing():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherGone(1, "exit:1"))
    book.forget()
    for event in (
        ev.LauncherReady(1),
        ev.LauncherRefused(1, "user", "x"),
        ev.LauncherChoked(1, True),
        ev.LauncherGone(1, "exit:1"),
        started(1),
        ended(1),
        not_started(1),
    ):
        book.tell(event).expect()


# -- choked ---------------------------------------------------------------------------


def test_a_service_whose_launcher_does_not_keep_up_is_not_polled():
    book = Playbook(service()).tell(accepted(1)).forget()
    book.tell(ev.LauncherChoked(1, True)).expect(cmd.Unpoll(ECHO))
    book.tell(ended(1)).expect()
    book.tell(ev.LauncherChoked(1, False)).expect(cmd.Poll(ECHO))


def test_a_choked_launcher_that_dies_chokes_nobody_any_more():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherChoked(1, True))
    book.tell(ev.LauncherGone(1, "signal:9")).forget()
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_a_choked_launcher_that_was_replaced_chokes_nobody_any_more():
    book = Playbook(service()).tell(accepted(1)).tell(ev.LauncherChoked(1, True))
    book.forget().tell(ev.Reloaded((service(user="other"),), 2))
    book.expect(cmd.RetireLauncher(1), cmd.Poll(ECHO))
    book.tell(ev.LauncherChoked(1, True)).expect()


# -- idle and warm --------------------------------------------------------------------


def test_a_launcher_without_a_handler_ends_after_launcher_idle():
    book = Playbook(service(launcher_idle=60.0)).tell(accepted(1))
    book.tell(ev.LauncherReady(1)).forget()
    book.tell(started(1)).pass_time(1000).expect()
    book.tell(ended(1)).pass_time(59.9).expect()
    book.pass_time(0.1).expect(cmd.RetireLauncher(1))
    book.tell(accepted(2)).expect(cmd.StartLauncher(2, "echo"), cmd.Send(2, 2, 1))
    book.tell(ev.LauncherGone(1, "exit:0")).expect()
    assert book.logged("throttle") == []


def test_a_connection_starts_the_idle_time_anew():
    book = Playbook(service(launcher_idle=60.0)).tell(accepted(1))
    book.tell(ev.LauncherReady(1)).tell(ended(1)).pass_time(50)
    book.tell(accepted(2)).tell(ended(2)).forget()
    book.pass_time(59.9).expect()
    book.pass_time(0.1).expect(cmd.RetireLauncher(1))


def test_a_launcher_whose_only_handler_could_not_start_ends_as_well():
    book = Playbook(service(launcher_idle=60.0)).tell(accepted(1))
    book.tell(ev.LauncherReady(1)).tell(not_started(1)).forget()
    book.pass_time(60).expect(cmd.Poll(ECHO), cmd.RetireLauncher(1))


def test_ten_thousand_short_connections_do_not_fill_the_master_with_deadlines():
    book = (
        Playbook(service()).tell(accepted(1)).tell(ev.LauncherReady(1)).tell(ended(1))
    )
    for conn in range(2, 10_000):
        book.now += 0.001
        book.core.handle(accepted(conn), book.now)
        book.core.handle(ended(conn), book.now)
    assert len(book.core.deadlines._heap) < 10


def test_a_shorter_launcher_idle_counts_from_the_reload():
    book = Playbook(service(launcher_idle=600.0)).tell(accepted(1))
    book.tell(ev.LauncherReady(1)).tell(ended(1)).pass_time(10)
    book.tell(ev.Reloaded((service(launcher_idle=20.0),), 2)).forget()
    book.pass_time(20).expect(cmd.RetireLauncher(1))
    book.tell(ev.LauncherGone(1, "exit:0")).pass_time(1000).expect()


def test_a_warm_launcher_is_started_before_anybody_comes_and_stays():
    book = Playbook(service(warm=True, launcher_idle=1.0))
    book.expect(cmd.StartLauncher(1, "echo"), cmd.Poll(ECHO))
    book.tell(ev.LauncherReady(1)).tell(accepted(1)).tell(ended(1)).forget()
    book.pass_time(10_000).expect()


def test_a_warm_launcher_that_dies_is_started_again_after_its_backoff():
    book = Playbook(service(warm=True)).forget()
    book.tell(ev.LauncherGone(1, "signal:11")).expect(cmd.Unpoll(ECHO))
    book.pass_time(1).expect(cmd.StartLauncher(2, "echo"), cmd.Poll(ECHO))


def test_a_reload_does_not_start_the_warm_launcher_of_a_throttled_service():
    book = Playbook(service(warm=True)).forget()
    book.tell(ev.LauncherGone(1, "signal:11")).expect(cmd.Unpoll(ECHO))
    book.tell(ev.Reloaded((service(warm=True, connections=7),), 2)).expect()
    book.pass_time(1).expect(cmd.StartLauncher(2, "echo"), cmd.Poll(ECHO))


def test_a_service_that_a_reload_made_warm_keeps_its_launcher():
    book = Playbook(service(launcher_idle=60.0)).tell(accepted(1))
    book.tell(ev.LauncherReady(1)).tell(ended(1))
    book.tell(ev.Reloaded((service(launcher_idle=60.0, warm=True),), 2)).forget()
    book.pass_time(10_000).expect()


def test_a_service_that_a_reload_made_cold_lets_its_launcher_go():
    book = Playbook(service(launcher_idle=60.0, warm=True)).tell(ev.LauncherReady(1))
    book.tell(ev.Reloaded((service(launcher_idle=60.0),), 2)).forget()
    book.pass_time(60).expect(cmd.RetireLauncher(1))


def test_a_retired_launcher_that_crashes_throttles_nobody():
    book = Playbook(service()).tell(accepted(1)).tell(started(1)).tell(accepted(2))
    book.tell(ev.Reloaded((service(user="other"),), 2)).forget()
    book.tell(ev.LauncherGone(1, "signal:11")).expect(
        cmd.WatchOrphan(1, 9001), cmd.Close(2)
    )
    assert book.state() is State.LISTENING
