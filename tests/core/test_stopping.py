"""Reload and stop: who comes, who goes, and when a running handler is ended."""

from __future__ import annotations

import pytest
from playbook import Playbook, accepted, ended, service, started

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.lifecycle import State
from superd.core.stopping import GIVE_UP_AFTER, KILL_AFTER

ECHO = "tcp echo"
STOP = ev.StopAsked(at_once=False)
AT_ONCE = ev.StopAsked(at_once=True)
BYE = ev.LauncherGone(1, "exit:0")


def reloaded(*services) -> ev.Reloaded:
    return ev.Reloaded(services, 2)


def serving(*services, conns=(1,)) -> Playbook:
    """Make a book of these services; each connection is at the first one, started."""
    book = Playbook(*services)
    for conn in conns:
        book.tell(accepted(conn, listener=services[0].listeners[0].key))
        book.tell(started(conn))
    return book.tell(ev.LauncherReady(1)).forget()


# -- reload ---------------------------------------------------------------------------


def test_an_added_service_is_polled_and_nobody_else_notices():
    book = serving(service("echo"))
    book.tell(reloaded(service("echo"), service("web"))).expect(cmd.Poll("tcp web"))
    [_, line] = book.logged("reload")
    assert line == {
        "generation": 2,
        "services": 2,
        "listeners": 2,
        "added": 1,
        "removed": 0,
        "renewed": 0,
        "adjusted": 0,
    }


def test_a_reload_of_the_same_file_does_nothing():
    book = serving(service("echo"), service("web"))
    book.tell(reloaded(service("echo"), service("web"))).expect()


def test_a_removed_service_closes_its_listener_and_its_handlers_finish():
    book = serving(service("echo"), service("web"))
    book.tell(reloaded(service("web")))
    book.expect(cmd.CloseListener(ECHO), cmd.RetireLauncher(1))
    book.pass_time(100_000).expect()
    assert book.core.leaving
    book.tell(ended(1)).tell(BYE).expect()
    assert not book.core.leaving


def test_the_last_connections_of_a_removed_service_do_not_end_superd():
    book = serving(service("echo"), conns=())
    book.tell(reloaded()).expect(cmd.CloseListener(ECHO))
    assert not book.core.leaving


def test_waiting_connections_of_a_removed_service_are_refused():
    book = serving(service("echo", per_source=1, message="bye\n"))
    book.tell(accepted(2)).tell(reloaded())
    assert cmd.Refuse(2, "bye\n") in book.said
    assert book.logged("refuse")[0]["reason"] == "stopping"


def test_a_renewed_service_gets_another_launcher_for_new_connections():
    book = serving(service())
    book.tell(reloaded(service(user="other"))).expect(cmd.RetireLauncher(1))
    book.tell(accepted(2)).expect(cmd.StartLauncher(2, "echo"), cmd.Send(2, 2, 2))
    book.tell(ended(1)).tell(BYE).expect()
    book.tell(ended(2, launcher=2)).expect()
    assert book.core.conns == {}


def test_handlers_of_the_old_launcher_count_for_the_limits_of_the_new():
    book = serving(service(connections=2))
    book.tell(reloaded(service(connections=2, user="other"))).forget()
    book.tell(accepted(2)).expect(
        cmd.StartLauncher(2, "echo"), cmd.Send(2, 2, 2), cmd.Unpoll(ECHO)
    )
    book.tell(ended(1)).expect(cmd.Poll(ECHO))


def test_an_adjusted_service_keeps_its_launcher():
    book = serving(service())
    book.tell(reloaded(service(stop=99.0, message="x"))).expect()
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2))


def test_limits_lowered_below_use_end_nobody():
    book = serving(service(connections=9), conns=(1, 2, 3))
    book.tell(reloaded(service(connections=2))).expect(cmd.Unpoll(ECHO))
    book.tell(ended(1)).expect()
    book.tell(ended(2)).expect(cmd.Poll(ECHO))


def test_limits_raised_poll_at_once():
    book = serving(service(connections=1))
    book.tell(reloaded(service(connections=2))).expect(cmd.Poll(ECHO))


def test_a_source_limit_lifted_admits_who_waits():
    book = serving(service(per_source=1))
    book.tell(accepted(2)).tell(accepted(3)).forget()
    book.tell(reloaded(service(per_source=2))).expect(cmd.Send(1, 2, 2))
    book.tell(reloaded(service())).expect(cmd.Send(1, 3, 3))


def test_another_prefix_counts_new_connections_only():
    one = service(per_source=1, when_full="refuse")
    wide = one._replace(limits=one.limits._replace(ipv4_prefix=24))
    book = serving(one)
    book.tell(reloaded(wide)).tell(accepted(2, "192.0.2.2")).expect(cmd.Send(1, 2, 1))
    book.tell(accepted(3, "192.0.2.3")).expect(cmd.Refuse(3, ""))
    book.tell(ended(1)).tell(ended(2))
    assert book.core.services["echo"].admission.sources == {}


def test_a_throttle_ends_when_what_runs_has_changed():
    book = serving(service())
    book.tell(ended(1, 100)).expect(cmd.Unpoll(ECHO))
    book.tell(reloaded(service(user="other")))
    book.expect(cmd.RetireLauncher(1), cmd.Poll(ECHO))
    book.tell(BYE).pass_time(10).expect()


def test_a_throttle_stays_when_only_the_limits_have_changed():
    book = serving(service())
    book.tell(ended(1, 100)).forget()
    book.tell(reloaded(service(connections=7))).expect()
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_an_old_release_does_not_end_a_newer_throttle():
    book = serving(service(), conns=(1, 2))
    book.tell(ended(1, 100)).pass_time(0.5)
    book.tell(reloaded(service(user="other"))).pass_time(0.1)
    book.tell(ended(2, 100)).forget()
    book.pass_time(0.9).expect()
    book.pass_time(0.1).expect(cmd.Poll(ECHO))


def test_a_listener_that_moves_to_another_service_is_never_closed():
    book = serving(service("echo", keys=("shared",)))
    book.tell(reloaded(service("other", keys=("shared",)))).expect(
        cmd.RetireLauncher(1)
    )
    book.tell(accepted(2, listener="shared")).expect(
        cmd.StartLauncher(2, "other"), cmd.Send(2, 2, 1)
    )
    book.tell(ended(1)).tell(BYE).expect()


def test_a_listener_that_moves_to_a_full_service_is_not_polled():
    book = serving(service("echo", connections=1), service("other", keys=("shared",)))
    both = service("echo", connections=1, keys=(ECHO, "shared"))
    book.tell(reloaded(both)).expect(cmd.Unpoll("shared"))
    book.tell(ended(1)).expect(cmd.Poll(ECHO), cmd.Poll("shared"))


def test_a_listener_that_changes_its_kind_is_watched_anew_and_never_closed():
    book = serving(service(), conns=())
    book.tell(reloaded(service(kind="wait", mode="wait")))
    book.expect(cmd.Unpoll(ECHO), cmd.Poll(ECHO))
    book.tell(ev.Readable(ECHO, 1))
    assert cmd.Lend(1, 1, ECHO, "wait") in book.said


def test_a_lent_listener_that_moves_is_polled_when_it_comes_back():
    old, new = service("old", kind="wait", keys=("k",)), service("new", keys=("k",))
    book = Playbook(old).tell(ev.Readable("k", 1)).tell(started(1)).forget()
    book.tell(reloaded(new)).expect(cmd.RetireLauncher(1))
    book.tell(ended(1)).expect(cmd.Poll("k"))
    book.tell(BYE).tell(accepted(2, listener="k")).expect(
        cmd.StartLauncher(2, "new"), cmd.Send(2, 2, 1)
    )


def test_a_listener_closed_while_it_is_lent_stays_with_its_program():
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).tell(started(1))
    book.forget().tell(reloaded(service("web")))
    book.expect(cmd.CloseListener(ECHO), cmd.RetireLauncher(1), cmd.Poll("tcp web"))
    book.tell(ended(1)).tell(BYE).expect()


def test_a_paused_listener_that_moves_stays_paused_for_its_time():
    book = Playbook(service("old", keys=("k",)))
    book.tell(ev.AcceptFailed("k", "accept: no memory")).forget()
    book.tell(reloaded(service("new", keys=("k",)))).expect()
    book.pass_time(1).expect(cmd.Poll("k"))


def test_the_same_name_comes_back_while_the_old_one_drains():
    book = serving(service("echo", connections=1))
    book.tell(reloaded()).tell(ev.Reloaded((service("echo", connections=1),), 3))
    book.forget()
    book.tell(accepted(2)).expect(
        cmd.StartLauncher(2, "echo"), cmd.Send(2, 2, 1), cmd.Unpoll(ECHO)
    )
    book.tell(ended(1)).tell(BYE).expect()
    book.tell(ended(2, launcher=2)).expect(cmd.Poll(ECHO))


def test_services_that_swap_their_listeners_close_neither():
    book = Playbook(service("a", keys=("one",)), service("b", keys=("two",))).forget()
    book.tell(reloaded(service("a", keys=("two",)), service("b", keys=("one",))))
    book.expect()
    book.tell(accepted(1, listener="one")).expect(
        cmd.StartLauncher(1, "b"), cmd.Send(1, 1, 1)
    )


# -- stop -----------------------------------------------------------------------------


def test_stop_with_nothing_running_exits_at_once():
    book = serving(service("echo"), service("web"), conns=())
    book.tell(STOP).expect(
        cmd.CloseListener(ECHO), cmd.CloseListener("tcp web"), cmd.Exit(0)
    )


def test_stop_without_a_service_exits_at_once():
    Playbook().tell(STOP).expect(cmd.Exit(0))


@pytest.mark.parametrize("busy", ["a", "b", "c"])
def test_an_idle_service_does_not_end_superd_while_another_drains(busy):
    services = [service(name) for name in "abc"]
    book = Playbook(*services).tell(accepted(1, listener=f"tcp {busy}")).forget()
    book.tell(STOP)
    assert cmd.Exit(0) not in book.said
    book.forget().tell(ended(1)).expect()
    book.tell(BYE).expect(cmd.Exit(0))


def test_stop_lets_handlers_finish_and_then_exits():
    book = serving(service(stop=30.0))
    book.tell(STOP).expect(cmd.CloseListener(ECHO), cmd.RetireLauncher(1))
    book.pass_time(29).expect()
    book.tell(ended(1)).expect()
    book.tell(BYE).expect(cmd.Exit(0))


def test_stop_refuses_who_waits():
    book = serving(service(per_source=1, message="bye\n"))
    book.tell(accepted(2)).tell(STOP)
    assert cmd.Refuse(2, "bye\n") in book.said


def test_a_handler_that_does_not_end_gets_term_and_then_kill():
    book = serving(service(stop=5.0), conns=(1, 2))
    book.tell(STOP).forget()
    book.pass_time(4.9).expect()
    book.pass_time(0.1).expect(cmd.Signal(1, 1, "TERM"), cmd.Signal(1, 2, "TERM"))
    book.tell(ended(1, signal=15))
    book.pass_time(KILL_AFTER - 0.1).expect()
    book.pass_time(0.1).expect(cmd.Signal(1, 2, "KILL"))
    book.tell(ended(2, signal=9)).tell(BYE).expect(cmd.Exit(0))


def test_every_service_has_its_own_deadline():
    book = Playbook(service("a", stop=1.0), service("b", stop=3.0))
    book.tell(accepted(1, listener="tcp a")).tell(accepted(2, listener="tcp b"))
    book.tell(started(1)).tell(started(2, 2)).tell(STOP).forget()
    book.pass_time(1).expect(cmd.Signal(1, 1, "TERM"))
    book.pass_time(1.9).expect()
    book.pass_time(0.1).expect(cmd.Signal(2, 2, "TERM"), cmd.Signal(1, 1, "KILL"))


def test_superd_leaves_even_if_a_handler_cannot_be_ended():
    book = serving(service(stop=5.0))
    book.tell(STOP).pass_time(5 + KILL_AFTER).forget()
    book.pass_time(GIVE_UP_AFTER).expect(cmd.KillLauncher(1), cmd.Exit(0))
    assert book.logged("stop")[-1] == {"service": "echo", "left": 1}


def test_an_orphan_is_waited_for_and_never_signalled():
    """Its pid is a launcher's word."""
    book = serving(service(stop=5.0))
    book.tell(ev.LauncherGone(1, "signal:9")).tell(STOP).forget()
    book.pass_time(6).expect()
    book.tell(ev.OrphanGone(1)).expect(cmd.Exit(0))


def test_a_second_stop_kills_at_once():
    book = serving(service(stop=3600.0))
    book.tell(STOP).forget()
    book.tell(STOP).expect()
    book.tell(AT_ONCE).expect(cmd.Signal(1, 1, "KILL"))
    # The launcher may linger over the closed connection: nobody waits for that.
    book.tell(ended(1, signal=9)).expect(cmd.Exit(0))


def test_a_second_stop_leaves_soon_whatever_happens():
    book = serving(service(stop=3600.0))
    book.tell(STOP).tell(AT_ONCE).forget()
    book.pass_time(GIVE_UP_AFTER).expect(cmd.KillLauncher(1), cmd.Exit(0))


def test_a_stop_at_once_kills_at_once():
    book = serving(service(stop=3600.0))
    book.tell(AT_ONCE)
    assert cmd.Signal(1, 1, "KILL") in book.said


def test_a_throttled_service_stops_like_any_other():
    book = serving(service())
    book.tell(ended(1, 100)).tell(STOP).forget()
    book.tell(BYE).expect(cmd.Exit(0))
    assert book.core.services == {}


def test_a_service_that_drains_since_a_reload_has_its_deadline_from_the_stop():
    book = serving(service("echo", stop=5.0))
    book.tell(reloaded()).pass_time(1000).tell(STOP).forget()
    book.pass_time(5).expect(cmd.Signal(1, 1, "TERM"))


def test_a_launcher_that_dies_during_the_stop_is_no_failure():
    book = serving(service(), conns=(1, 2)).tell(STOP).forget()
    book.tell(ended(1)).tell(ended(2)).tell(ev.LauncherGone(1, "signal:9"))
    book.expect(cmd.Exit(0))
    assert book.logged("throttle") == []


def test_a_connection_that_was_not_started_is_closed_by_its_launchers_death():
    book = Playbook(service()).tell(accepted(1)).tell(STOP).forget()
    book.tell(ev.LauncherGone(1, "signal:9")).expect(cmd.Close(1), cmd.Exit(0))


def test_lent_listeners_are_taken_back_from_their_programs_at_the_deadline():
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).tell(started(1))
    book.tell(STOP).forget()
    book.pass_time(5).expect(cmd.Signal(1, 1, "TERM"))
    book.tell(ended(1, signal=15)).tell(BYE).expect(cmd.Exit(0))


def test_a_draining_service_is_draining_in_the_books():
    book = serving(service()).tell(STOP)
    assert [one.state for one in book.core.leaving] == [State.DRAINING]
