"""Audit the books of the core: every table against every other.

Tests call `check` after every event. What is asserted here is what the rest of the core
may rely on; what nothing relies on has no place here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.core.lifecycle import State

if TYPE_CHECKING:
    from superd.core.supervisor import Supervisor
    from superd.core.tables import Launcher, Listener, Seat, Service


def check(core: Supervisor) -> None:
    """Raise AssertionError where two tables disagree: that is a bug of ours."""
    everyone = [*core.services.values(), *core.leaving]
    for service in everyone:
        _check_slots(core, service)
        _check_state(core, service)
    for key, listener in core.listeners.items():
        assert listener.key == key
        assert listener.service in core.services.values(), key
        _check_listener(core, listener)
    for number, launcher in core.launchers.items():
        assert launcher.service in everyone, number
        with_it = {conn.id for conn in core.conns.values() if conn.launcher == number}
        assert launcher.conns == with_it, (number, launcher.conns, with_it)
        _check_seats(launcher)
    for number, seat in core.seats.items():
        assert seat.id == number
        _check_seat(core, seat)
        on_it = {conn.id for conn in core.conns.values() if conn.seat is seat}
        assert set(seat.conns) == on_it, (seat.id, seat.conns, on_it)
        assert seat.doubtful == frozenset() or seat.crash is not None, seat.id
    theirs = sum(len(one.conns) + one.admission.waiting_count for one in everyone)
    assert theirs == len(core.conns), (theirs, core.conns)


def _check_seat(core: Supervisor, seat: Seat) -> None:
    """A seat is retired or gets connections; who has nothing to do is free."""
    launcher = core.launchers.get(seat.launcher)
    listed = launcher is not None and seat in launcher.seats
    assert listed != seat.retired, seat.id
    if launcher is None or seat.retired or launcher.spec.mode != "pool":
        return
    idle = seat.pid is not None and not seat.conns
    assert not idle or seat in launcher.free, seat.id


def _check_seats(launcher: Launcher) -> None:
    """Who is free has nothing to do, and nobody is free twice."""
    spec = launcher.spec
    assert all(seat.launcher == launcher.id for seat in launcher.seats)
    assert not any(seat.retired for seat in launcher.seats), launcher.id
    if launcher.retired:
        assert not launcher.seats, launcher.id
    if spec.mode != "pool":
        return
    # A reload that changes these numbers comes with a new launcher.
    assert launcher.retired or len(launcher.seats) <= spec.max_workers, launcher.id
    assert len(set(launcher.free)) == len(launcher.free), launcher.id
    for seat in launcher.free:
        assert seat in launcher.seats, seat.id
        assert not seat.conns, seat.id


def _check_slots(core: Supervisor, service: Service) -> None:
    """A slot is taken exactly for each live connection, and counted for its source."""
    service.admission.check()
    sources: dict[str, int] = {}
    for number in service.conns:
        conn = core.conns[number]
        assert conn.service is service, number
        with_somebody = conn.launcher is not None or conn.seat is not None
        assert with_somebody or conn.pid is not None, number
        if conn.source is not None:
            sources[conn.source] = sources.get(conn.source, 0) + 1
    assert sources == service.admission.sources, (service.name, sources)
    for source, queue in service.admission.waiting.items():
        for number in queue:
            conn = core.conns[number]
            assert number not in service.conns, number
            assert conn.service is service, number
            assert (conn.source, conn.launcher, conn.pid) == (source, None, None)


def _check_state(core: Supervisor, service: Service) -> None:
    """The state is what the tables say; no throttle lasts for ever."""
    state = service.state
    assert (state is State.DRAINING) == (service in core.leaving), service.name
    assert state is not State.STOPPED, service.name
    if state is State.LISTENING or state is State.FULL:
        assert (state is State.LISTENING) == service.admission.wants_poll()
    if state is State.THROTTLED:
        assert service.throttle.until is not None, service.name
        assert core.deadlines.next() is not None, service.name
    if service.launcher is not None:
        launcher = core.launchers[service.launcher]
        assert launcher.service is service, service.name
        assert not launcher.retired, service.name


def _check_listener(core: Supervisor, listener: Listener) -> None:
    """What is polled is what should be; a lent listener is with somebody."""
    service = listener.service
    spec = [one.kind for one in service.spec.listeners if one.key == listener.key]
    assert spec == [listener.kind], listener.key
    if listener.lent is not None:
        conn = core.conns[listener.lent]
        assert (conn.listener, conn.source) == (listener.key, None)
    free = listener.lent is None and not service.choked
    want = free and service.state is State.LISTENING
    # A pause ends by the clock, which an audit does not know.
    if listener.paused_until is None or not want:
        assert listener.polled == want, (listener.key, service.state)
