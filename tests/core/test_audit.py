"""The audit sees every kind of spoilt book."""

from __future__ import annotations

import pytest
from playbook import Playbook, accepted, pool, service, started, taken

from superd.core import events as ev
from superd.core.audit import check
from superd.core.lifecycle import State
from superd.core.tables import Conn, Launcher

KEY = "tcp echo"


def busy() -> Playbook:
    """Make a book with everything in it: live, waiting, lent, draining, a launcher."""
    book = Playbook(
        service("echo", per_source=1),
        service("dgram", kind="datagram"),
        service("old"),
        pool("pool", workers=2),
    )
    book.tell(accepted(1)).tell(started(1)).tell(accepted(2))
    book.tell(ev.Readable("tcp dgram", 3)).tell(accepted(4, listener="tcp old"))
    book.tell(accepted(5, listener="tcp pool")).tell(taken(1)).tell(taken(2))
    services = (
        *(service("echo", per_source=1), service("dgram", kind="datagram")),
        pool("pool", workers=2),
    )
    return book.tell(ev.Reloaded(services, 2))


def test_sound_books_pass():
    check(busy().core)


def spoil_slot(core):
    core.services["echo"].admission.live += 1


def spoil_source(core):
    core.services["echo"].admission.sources["elsewhere"] = 1
    core.services["echo"].admission.live += 1


def spoil_forgotten_conn(core):
    del core.conns[1]


def spoil_stray_conn(core):
    core.conns[99] = Conn(99, core.services["echo"], KEY, 0.0)


def spoil_waiting_conn(core):
    core.conns[2].launcher = 1


def spoil_lost_waiting(core):
    core.services["echo"].admission.waiting_count += 1


def spoil_owner(core):
    core.conns[1].service = core.services["dgram"]


def spoil_launcher_book(core):
    core.launchers[1].conns.clear()


def spoil_launcher_of_nobody(core):
    core.launchers[1].service = type(core.services["echo"])(service("ghost"))


def spoil_current_launcher(core):
    core.launchers[1].retired = True


def spoil_lost_launcher(core):
    core.services["echo"].launcher = 77


def spoil_polled(core):
    core.listeners[KEY].polled = False


def spoil_polled_though_lent(core):
    core.listeners["tcp dgram"].polled = True


def spoil_lent(core):
    core.listeners["tcp dgram"].lent = 1


def spoil_kind(core):
    core.listeners[KEY].kind = "wait"


def spoil_listener_of_a_leaving_service(core):
    core.listeners[KEY].service = core.leaving[0]


def spoil_full(core):
    core.services["echo"].state = State.FULL


def spoil_endless_throttle(core):
    core.services["echo"].state = State.THROTTLED
    core.listeners[KEY].polled = False


def spoil_stopped(core):
    core.services["echo"].state = State.STOPPED


def spoil_draining(core):
    core.leaving[0].state = State.LISTENING


def spoil_key(core):
    core.listeners["other"] = core.listeners.pop(KEY)


def spoil_second_launcher(core):
    core.launchers[50] = Launcher(50, core.services["echo"])
    core.launchers[50].conns.add(1)


def spoil_seat_book(core):
    core.seats[2].conns.clear()


def spoil_seat_of_a_conn(core):
    core.conns[5].seat = core.seats[1]


def spoil_lost_seat(core):
    core.launchers[4].seats.pop()


def spoil_retired_seat(core):
    core.seats[1].retired = True


def spoil_never_freed_seat(core):
    core.launchers[4].free.clear()


def spoil_seat_free_twice(core):
    core.launchers[4].free.append(core.seats[1])


def spoil_busy_seat_free(core):
    core.launchers[4].free.append(core.seats[2])


def spoil_doubt_without_a_crash(core):
    core.seats[2].doubtful = frozenset({5})


def spoil_seat_of_another_launcher(core):
    core.seats[1].launcher = 1


def spoil_seats_of_a_retired_launcher(core):
    core.services["pool"].launcher = None
    core.launchers[4].retired = True


def spoil_too_many_seats(core):
    core.launchers[4].spec = core.launchers[4].spec._replace(max_workers=1)


SPOILS = [value for name, value in sorted(globals().items()) if name[:6] == "spoil_"]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__[6:])
def test_the_audit_sees_a_book_with_a_spoilt(spoil):
    core = busy().core
    spoil(core)
    with pytest.raises((AssertionError, KeyError)):
        check(core)
