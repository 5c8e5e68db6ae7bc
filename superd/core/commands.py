"""Name everything that the core can ask for; the counterpart is events.py.

A command is data: the master's shell performs it, tests compare it.
"""

from __future__ import annotations

from typing import NamedTuple


class Poll(NamedTuple):
    """Watch a listener."""

    listener: str


class Unpoll(NamedTuple):
    """Do not watch a listener: its peers wait in the kernel's backlog."""

    listener: str


class CloseListener(NamedTuple):
    """Close a listener that no service names any more."""

    listener: str


class StartLauncher(NamedTuple):
    """Start the launcher of a service; `launcher` is its number from now on."""

    launcher: int
    service: str


class RetireLauncher(NamedTuple):
    """Let a launcher finish its handlers and end."""

    launcher: int


class KillLauncher(NamedTuple):
    """End a launcher that does not end by itself."""

    launcher: int


class AddSeat(NamedTuple):
    """Let a launcher start a worker; `seat` is the number of its place from now on."""

    launcher: int
    seat: int
    one_by_one: bool
    """Its worker takes one connection at a time."""


class RetireSeat(NamedTuple):
    """Let the worker of a seat finish what it has and end."""

    seat: int


class MarkSeat(NamedTuple):
    """Put a mark behind all that was sent to a seat: its worker has died."""

    seat: int


class Send(NamedTuple):
    """Hand a connection to a launcher, or to the worker of a `seat`.

    `number` counts the source's live ones.
    """

    launcher: int
    conn: int
    number: int
    seat: int = 0


class Look(NamedTuple):
    """Ask a launcher for the name of a connection's peer."""

    launcher: int
    conn: int


class Lend(NamedTuple):
    """Hand a whole listener to a launcher; `verb` is wait or serve."""

    launcher: int
    conn: int
    listener: str
    verb: str


class Refuse(NamedTuple):
    """Close a connection after telling its peer why."""

    conn: int
    message: str


class Close(NamedTuple):
    """Close a connection that is not with a launcher, if we still have it."""

    conn: int


class Signal(NamedTuple):
    """Ask a launcher to signal a handler's process group, or a seat's worker."""

    launcher: int
    conn: int
    signal: str
    seat: int = 0


class WatchOrphan(NamedTuple):
    """Watch a handler whose launcher died, so that its slot is freed when it ends."""

    conn: int
    pid: int


class Log(NamedTuple):
    """Write one line: a verb of the vocabulary and its fields in a fixed order."""

    level: str
    verb: str
    fields: tuple[tuple[str, object], ...]


class Exit(NamedTuple):
    """Leave the main loop with this status."""

    status: int


Command = (
    Poll
    | Unpoll
    | CloseListener
    | StartLauncher
    | RetireLauncher
    | KillLauncher
    | AddSeat
    | RetireSeat
    | MarkSeat
    | Send
    | Look
    | Lend
    | Refuse
    | Close
    | Signal
    | WatchOrphan
    | Log
    | Exit
)
