"""Connections: who is admitted, who waits, who is refused, and what failures do."""

from __future__ import annotations

import pytest
from playbook import Playbook, accepted, ended, not_started, service, started

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.lifecycle import State
from superd.core.supervisor import ACCEPT_PAUSE
from superd.core.throttle import FIRST_FAILURES

ECHO = "tcp echo"


def serving(*conns, **given) -> Playbook:
    """Make a book whose service `echo` has these connections, all started."""
    book = Playbook(service(**given))
    for conn in conns:
        book.tell(accepted(conn)).tell(started(conn))
    return book.forget()


# -- admission ------------------------------------------------------------------------


def test_the_first_connection_starts_a_launcher_and_the_second_uses_it():
    book = Playbook(service())
    book.expect(cmd.Poll(ECHO))
    book.tell(accepted(1)).expect(cmd.StartLauncher(1, "echo"), cmd.Send(1, 1, 1))
    book.tell(ev.LauncherReady(1)).expect()
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2))


def test_full_service_stops_polling_until_a_handler_exits():
    book = serving(1, connections=2)
    book.tell(accepted(2)).expect(cmd.Send(1, 2, 2), cmd.Unpoll(ECHO))
    assert book.state() is State.FULL
    book.tell(ended(1)).expect(cmd.Poll(ECHO))
    assert book.state() is State.LISTENING


def test_full_service_with_when_full_refuse_says_the_message_and_goes_on_polling():
    book = serving(1, connections=1, when_full="refuse", message="busy\r\n")
    book.tell(accepted(2)).expect(cmd.Refuse(2, "busy\r\n"))
    [line] = book.logged("refuse")
    assert line == {
        "service": "echo",
        "conn": 2,
        "peer": "192.0.2.1:50002",
        "reason": "connections",
        "used": "1/1",
    }
    book.tell(ended(1)).tell(accepted(3)).expect(cmd.Send(1, 3, 1))


def test_a_source_at_its_limit_waits_and_others_go_on():
    book = serving(1, per_source=1)
    book.tell(accepted(2)).expect()
    book.tell(accepted(3, "192.0.2.2")).expect(cmd.Send(1, 3, 1))
    book.tell(ended(1)).expect(cmd.Send(1, 2, 1))


def test_waiting_connections_take_turns_between_sources():
    book = Playbook(service(connections=3, per_source=1))
    for conn, host in enumerate(["a", "b", "a", "a", "b"], start=1):
        book.tell(accepted(conn, host))
    book.tell(started(1)).tell(started(2)).forget()
    book.tell(ended(1)).expect(cmd.Send(1, 3, 1))
    book.tell(ended(2)).expect(cmd.Send(1, 5, 1))
    book.tell(ended(3)).expect(cmd.Send(1, 4, 1))


def test_the_room_for_waiting_is_bounded_and_then_refuses():
    book = serving(1, connections=2, per_source=1, message="later\n")
    book.tell(accepted(2)).tell(accepted(3)).expect()
    book.tell(accepted(4)).expect(cmd.Refuse(4, "later\n"))
    assert book.logged("refuse")[0]["reason"] == "waiting"
    book.tell(accepted(5, "192.0.2.2")).expect(cmd.Send(1, 5, 1), cmd.Unpoll(ECHO))


def test_a_source_at_its_limit_is_refused_where_the_service_refuses():
    book = serving(1, 2, per_source=2, when_full="refuse")
    book.tell(accepted(3)).expect(cmd.Refuse(3, ""))
    assert book.logged("refuse")[0]["reason"] == "per_source"
    book.tell(accepted(4, "192.0.2.2")).expect(cmd.Send(1, 4, 1))


def test_an_ipv6_64_counts_as_one_source():
    book = Playbook(service(per_source=1, when_full="refuse"))
    book.tell(accepted(1, "2001:db8::1")).forget()
    book.tell(accepted(2, "2001:db8::ffff:2")).expect(cmd.Refuse(2, ""))
    book.tell(accepted(3, "2001:db8:0:1::1")).expect(cmd.Send(1, 3, 1))


def test_a_mapped_ipv4_peer_counts_as_its_ipv4_address():
    book = Playbook(service(per_source=1, when_full="refuse"))
    book.tell(accepted(1, "192.0.2.1")).forget()
    book.tell(accepted(2, "::ffff:192.0.2.1")).expect(cmd.Refuse(2, ""))
    assert book.logged("refuse")[0]["peer"] == "192.0.2.1:50002"


def test_a_launcher_is_told_the_unmapped_address():
    book = Playbook(service()).tell(accepted(1, "::ffff:192.0.2.1"))
    assert book.core.conns[1].host == "192.0.2.1"


def test_users_of_a_unix_socket_are_sources():
    book = Playbook(service(per_source=1, when_full="refuse"))
    book.tell(accepted(1, "unix:1000")).forget()
    book.tell(accepted(2, "unix:1000")).expect(cmd.Refuse(2, ""))
    book.tell(accepted(3, "unix:1001")).expect(cmd.Send(1, 3, 1))


# -- slots ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [ended(1), ended(1, status=1), ended(1, signal=9), ended(1, status=110)]
)
def test_every_end_of_a_handler_frees_its_slot(end):
    book = serving(1, connections=1)
    book.tell(end)
    assert book.core.services["echo"].admission.live == 0
    assert book.core.conns == {}


def test_a_handler_that_could_not_be_started_frees_its_slot():
    book = Playbook(service(connections=1)).tell(accepted(1)).tell(not_started(1))
    assert book.core.services["echo"].admission.live == 0


def test_nothing_else_frees_a_slot():
    book = serving(1, connections=1)
    for event in (
        ev.LauncherReady(1),
        ev.LauncherChoked(1, True),
        ev.LauncherChoked(1, False),
        ev.LauncherRefused(1, "become", "no such user"),
        ev.Reloaded((service(connections=1),), 2),
        ev.OrphanGone(1),
        started(1),
    ):
        book.tell(event)
        assert book.core.services["echo"].admission.live == 1
    book.pass_time(10_000)
    assert book.core.services["echo"].admission.live == 1


def test_a_launchers_word_about_anothers_connection_changes_nothing():
    book = Playbook(service("a"), service("b"))
    book.tell(accepted(1, listener="tcp a")).tell(
        accepted(2, listener="tcp b")
    ).forget()
    lines = len(book.log)
    for lie in (started(1, 2), ended(1, 100, 2), not_started(1, 2), ended(99, 0, 2)):
        book.tell(lie).expect()
    assert len(book.log) == lines
    assert book.core.conns[1].pid is None


def test_a_launchers_word_about_a_waiting_connection_changes_nothing():
    book = serving(1, per_source=1)
    book.tell(accepted(2))
    for lie in (started(2), ended(2), not_started(2), ev.OrphanGone(2)):
        book.tell(lie).expect()
    book.tell(ended(1)).expect(cmd.Send(1, 2, 1))


def test_what_a_launcher_says_twice_counts_once():
    book = serving(1, 2, connections=2)
    book.tell(ev.Started(1, 1, 666, "other"))
    assert book.core.conns[1].pid == 9001
    book.tell(ended(1)).expect(cmd.Poll(ECHO))
    book.tell(ended(1)).tell(not_started(1)).expect()
    assert book.core.services["echo"].admission.live == 1


def test_an_end_before_its_start_frees_the_slot():
    book = Playbook(service()).tell(accepted(1)).tell(ended(1)).tell(started(1))
    assert book.core.conns == {}


# -- what the log says ----------------------------------------------------------------


def test_a_connection_is_logged_when_it_starts_and_when_it_ends():
    book = Playbook(service()).tell(accepted(1))
    book.tell(started(1, name="peer.example.org")).pass_time(1.5).tell(ended(1, 110))
    assert book.logged("accept") == [
        {
            "service": "echo",
            "conn": 1,
            "peer": "192.0.2.1:50001",
            "name": "peer.example.org",
            "pid": 9001,
        }
    ]
    assert book.logged("end") == [
        {
            "service": "echo",
            "conn": 1,
            "peer": "192.0.2.1:50001",
            "pid": 9001,
            "status": "exit:110(peer)",
            "duration": 1.5,
            "cpu": 0.01,
        }
    ]


# -- failures -------------------------------------------------------------------------


def test_exit_100_throttles_at_once_and_the_throttle_ends_by_itself():
    book = serving(1)
    book.tell(ended(1, 100)).expect(cmd.Unpoll(ECHO))
    assert book.state() is State.THROTTLED
    book.pass_time(0.99).expect()
    book.pass_time(0.01).expect(cmd.Poll(ECHO))
    assert book.logged("throttle") == [
        {
            "service": "echo",
            "reason": "exit:100(setup)",
            "delay": 1.0,
            "place": "x.yaml:1:1:echo",
        }
    ]
    assert book.logged("release") == [{"service": "echo"}]


def test_a_program_that_cannot_be_executed_throttles_at_once():
    book = Playbook(service()).tell(accepted(1)).forget()
    book.tell(not_started(1)).expect(cmd.Unpoll(ECHO))
    assert book.logged("throttle")[0]["reason"] == "exec: no such file"
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_the_throttle_doubles_up_to_a_minute_and_a_success_resets_it():
    book = Playbook(service())
    delays = []
    for conn in range(1, 10):
        book.tell(accepted(conn)).tell(ended(conn, 100))
        delays.append(book.logged("throttle")[-1]["delay"])
        book.pass_time(60)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    book.tell(accepted(10)).tell(ended(10)).tell(accepted(11)).tell(ended(11, 100))
    assert book.logged("throttle")[-1]["delay"] == 1.0


def test_a_burst_of_failures_throttles_for_a_second_and_not_for_a_minute():
    book = serving(*range(1, 21))
    for conn in range(1, 21):
        book.tell(ended(conn, 100))
    book.pass_time(1)
    assert book.state() is State.LISTENING


def test_plain_failures_before_the_first_success_throttle():
    book = Playbook(service())
    for conn in range(1, FIRST_FAILURES):
        book.tell(accepted(conn)).tell(ended(conn, 1))
    assert book.state() is State.LISTENING
    book.tell(accepted(99)).tell(ended(99, 1))
    assert book.state() is State.THROTTLED


def test_plain_failures_after_a_success_never_throttle():
    book = serving(1)
    book.tell(ended(1))
    for conn in range(2, 100):
        book.tell(accepted(conn)).tell(ended(conn, 1))
    assert book.state() is State.LISTENING
    assert book.logged("throttle") == []


@pytest.mark.parametrize(
    "bad", [{"status": 110}, {"status": 112}, {"signal": 13}, {"signal": 15}]
)
def test_peers_that_misbehave_never_throttle_a_service(bad):
    book = Playbook(service())
    for conn in range(1, 50):
        book.tell(accepted(conn)).tell(ended(conn, **bad))
    assert book.logged("throttle") == []


def test_waiting_connections_of_a_throttled_service_wait_for_its_release():
    book = serving(1, per_source=1)
    book.tell(accepted(2)).tell(ended(1, 100)).expect(cmd.Unpoll(ECHO))
    book.pass_time(1).expect(cmd.Send(1, 2, 1), cmd.Poll(ECHO))


def test_a_full_service_that_throttles_is_full_again_when_it_is_released():
    book = serving(1, 2, connections=2)
    book.tell(ended(1, 100)).tell(ended(2, 100)).forget()
    assert book.state() is State.THROTTLED
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_a_failing_service_does_not_touch_another():
    book = Playbook(service("a"), service("b"))
    book.tell(accepted(1, listener="tcp a")).forget()
    book.tell(ended(1, 100)).expect(cmd.Unpoll("tcp a"))
    assert book.state("b") is State.LISTENING


# -- accept fails ---------------------------------------------------------------------


def test_a_failing_accept_pauses_only_its_listener_and_ends_by_itself():
    book = Playbook(service(keys=("one", "two")), service("web")).forget()
    book.tell(ev.AcceptFailed("one", "accept: too many open files"))
    book.expect(cmd.Unpoll("one"))
    book.pass_time(ACCEPT_PAUSE).expect(cmd.Poll("one"))
    assert len(book.logged("throttle")) == 1


def test_a_pause_that_ends_while_the_service_is_full_polls_nothing():
    book = serving(connections=1)
    book.tell(ev.AcceptFailed(ECHO, "accept: no memory")).expect(cmd.Unpoll(ECHO))
    book.tell(accepted(1)).forget()
    book.pass_time(ACCEPT_PAUSE).expect()
    book.tell(ended(1)).expect(cmd.Poll(ECHO))


def test_a_service_released_during_a_pause_waits_for_its_end():
    book = serving(1)
    book.tell(ended(1, 100)).expect(cmd.Unpoll(ECHO))
    book.pass_time(0.9)
    book.tell(ev.AcceptFailed(ECHO, "accept: no memory")).expect()
    book.pass_time(0.1).expect()
    book.pass_time(ACCEPT_PAUSE).expect(cmd.Poll(ECHO))


def test_two_failures_in_a_row_are_one_line_and_the_later_end():
    book = Playbook(service()).tell(ev.AcceptFailed(ECHO, "x")).pass_time(0.1)
    book.tell(ev.AcceptFailed(ECHO, "x")).forget()
    book.pass_time(ACCEPT_PAUSE - 0.05).expect()
    book.pass_time(0.05).expect(cmd.Poll(ECHO))
    assert len(book.logged("throttle")) == 1


# -- wait and datagram listeners ------------------------------------------------------


def test_a_wait_program_gets_the_listener_and_gives_it_back_with_its_end():
    book = Playbook(service(kind="wait")).forget()
    book.tell(ev.Readable(ECHO, 1)).expect(
        cmd.StartLauncher(1, "echo"), cmd.Lend(1, 1, ECHO, "wait"), cmd.Unpoll(ECHO)
    )
    book.tell(started(1)).tell(ended(1)).expect(cmd.Poll(ECHO))
    assert book.logged("spawn") == [
        {"service": "echo", "conn": 1, "listener": ECHO, "pid": 9001}
    ]
    assert book.logged("end")[0]["listener"] == ECHO


def test_a_datagram_listener_is_lent_to_serve():
    book = Playbook(service(kind="datagram")).forget()
    book.tell(ev.Readable(ECHO, 1))
    assert cmd.Lend(1, 1, ECHO, "serve") in book.said


def test_each_listener_is_lent_for_itself():
    book = Playbook(service(kind="wait", keys=("one", "two")))
    book.tell(ev.Readable("one", 1)).forget()
    book.tell(ev.Readable("two", 2)).expect(
        cmd.Lend(1, 2, "two", "wait"), cmd.Unpoll("two")
    )
    book.tell(ended(1)).expect(cmd.Poll("one"))


def test_a_lent_listener_takes_no_slot():
    book = Playbook(service(kind="wait", connections=1, keys=("one", "two")))
    book.tell(ev.Readable("one", 1)).tell(ev.Readable("two", 2))
    assert book.core.services["echo"].admission.live == 0


def test_a_wait_program_that_takes_nothing_throttles():
    """Otherwise the same datagram would start it again, thousands of times a second."""
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).forget()
    book.tell(ended(1, progress=False)).expect()
    assert book.logged("throttle")[0]["reason"] == "the program ended and took nothing"
    book.pass_time(1).expect(cmd.Poll(ECHO))


def test_a_wait_program_that_could_not_start_gives_the_listener_back():
    book = Playbook(service(kind="wait")).tell(ev.Readable(ECHO, 1)).forget()
    book.tell(not_started(1)).expect()
    book.pass_time(1).expect(cmd.Poll(ECHO))
