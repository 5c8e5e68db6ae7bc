"""Name everything that can happen to the core; the counterpart is commands.py.

Events are the only way for the core to learn of the world. They are NamedTuples and not
dataclasses because one is made for every accept, start and end of a connection, and
because the master's import list has no room for the dataclasses module (1.7 MiB).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from superd.core.spec import ServiceSpec


class Accepted(NamedTuple):
    """`accept` returned a connection; the address is the one it returned."""

    conn: int
    listener: str
    host: str
    port: int


class AcceptFailed(NamedTuple):
    """`accept` failed for want of a resource: the listener rests for a moment."""

    listener: str
    error: str


class Readable(NamedTuple):
    """A listener that is lent out whole (wait, datagram) has something to read."""

    listener: str
    conn: int


class LauncherReady(NamedTuple):
    """A launcher has become its service."""

    launcher: int


class LauncherRefused(NamedTuple):
    """A launcher cannot become its service and says why; it ends by itself."""

    launcher: int
    stage: str
    error: str


class LauncherGone(NamedTuple):
    """A launcher was reaped and everything that it had said was handled."""

    launcher: int
    status: str


class LauncherChoked(NamedTuple):
    """A launcher takes connections slower (True) or again as fast as they come."""

    launcher: int
    choked: bool


class Started(NamedTuple):
    """A launcher started a handler for a connection."""

    launcher: int
    conn: int
    pid: int
    name: str


class NotStarted(NamedTuple):
    """A launcher could not start a handler; the connection is closed."""

    launcher: int
    conn: int
    stage: str
    error: str
    seat: int = 0


class Ended(NamedTuple):
    """A handler was reaped, or a worker (of `seat`) is done with a connection.

    `cpu` is None where nobody can tell one connection's share; `progress` is False for a
    wait program that ate nothing.
    """

    launcher: int
    conn: int
    signal: int
    status: int
    cpu: float | None
    progress: bool
    seat: int = 0


class Named(NamedTuple):
    """A launcher has looked up the name of a connection's peer; "": it has none."""

    launcher: int
    conn: int
    name: str


class SeatTaken(NamedTuple):
    """A worker sits on a seat now and takes what is there."""

    seat: int
    pid: int


class SeatLeft(NamedTuple):
    """The worker of a seat makes room for a fresh one; it had nothing to do."""

    seat: int


class SeatCrashed(NamedTuple):
    """The worker of a seat has died."""

    seat: int
    signal: int
    status: int


class SeatKept(NamedTuple):
    """What a dead worker had not begun, of all that came before our mark."""

    seat: int
    conns: tuple[int, ...]


class SeatGone(NamedTuple):
    """The channel of a seat has ended: nobody will ever serve what is left there."""

    seat: int


class OrphanGone(NamedTuple):
    """A handler whose launcher died before it has ended as well."""

    conn: int


class Reloaded(NamedTuple):
    """A new generation: all its listeners are open, nothing else is done yet."""

    services: tuple[ServiceSpec, ...]
    generation: int


class StopAsked(NamedTuple):
    """TERM or INT: drain; a second one: at once."""

    at_once: bool


Event = (
    Accepted
    | AcceptFailed
    | Readable
    | LauncherReady
    | LauncherRefused
    | LauncherGone
    | LauncherChoked
    | Started
    | NotStarted
    | Ended
    | Named
    | SeatTaken
    | SeatLeft
    | SeatCrashed
    | SeatKept
    | SeatGone
    | OrphanGone
    | Reloaded
    | StopAsked
)
