"""Keep what belongs to one open listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superd.master import listen

if TYPE_CHECKING:
    import socket

    from superd.master.progress import Mark

BATCH = 32
"""Connections of one listener in one turn, at most: a flooded port starves no other."""


class Open:
    """One open listener: its socket and the plan's entry that asked for it."""

    __slots__ = ("batch", "lent", "made", "polled", "sock", "spec", "suspect")

    def __init__(self, sock: socket.socket, spec: dict[str, Any]) -> None:
        self.sock = sock
        self.spec = spec
        self.made = listen.identity(spec)
        """The file of a Unix listener: by the time we close, its name may be another's."""
        self.polled = False
        self.lent: tuple[Mark, float] | None = None
        """While it is lent: how it looked then, and since when."""
        self.batch = BATCH
        """How many connections are accepted in one turn: as the last turn taught."""
        self.suspect = False
        """The last program may have taken nothing: the next one is looked at closely."""

    def close(self) -> None:
        """Close it, and remove the file that we made for it."""
        listen.unlink_unix(self.spec, self.made)
        self.sock.close()
