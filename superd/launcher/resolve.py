"""Find the name of a peer: reverse look-up, confirmed forward, bounded in time.

The C library's resolver blocks for as long as its servers are silent (10 s by default), so
each look-up runs in a process of its own that is killed at its deadline. A name counts
only when it leads back to the address and looks like a name: what the owner of a reverse
zone writes ends up in the environment of a program.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 2.0
KEEP = 60.0
"""Seconds for which an answer (also: none) is remembered."""
ROOM = 1024
TOGETHER = 32
"""Look-ups that run at once; a connection past that goes without a name."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?", re.ASCII)


def confirmed_name(host: str) -> str:
    """Look up the name of an address and whether it leads back; "" if not."""
    try:
        name, _ = socket.getnameinfo((host, 0), socket.NI_NAMEREQD)
        forward = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    if host not in {entry[4][0] for entry in forward}:
        return ""
    name = name.rstrip(".")
    return name if _NAME.fullmatch(name) else ""


class Lookup(NamedTuple):
    """One look-up that runs: the process, the pipe it answers on, its deadline."""

    host: str
    pid: int
    fd: int
    until: float


class Resolver:
    """Running look-ups and remembered answers; `look` is what runs in their processes."""

    def __init__(self, look: Callable[[str], str] = confirmed_name) -> None:
        self._look = look
        self.running: dict[int, Lookup] = {}
        self.pids: set[int] = set()
        """The processes that are not reaped: who reaps takes them out."""
        self._known: dict[str, tuple[str, float]] = {}

    def known(self, host: str, now: float) -> str | None:
        """Give a remembered answer ("" for no name), or None."""
        entry = self._known.get(host)
        if entry is None or entry[1] < now:
            return None
        return entry[0]

    def start(self, host: str, now: float) -> int | None:
        """Begin a look-up; returns the descriptor to watch, None if too many run."""
        if len(self.running) >= TOGETHER:
            return None
        try:
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None  # no descriptors left: the connection goes without a name
        try:
            pid = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            return None  # no process to be had: the connection goes without a name
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.write(write, self._look(host).encode("ascii"))
            finally:
                os._exit(0)
        os.close(write)
        self.pids.add(pid)
        self.running[read] = Lookup(host, pid, read, now + DEADLINE)
        return read

    def finish(self, fd: int, now: float) -> tuple[str, str]:
        """Take the answer on a descriptor; returns (host, name or "")."""
        lookup = self.running.pop(fd)
        try:
            name = os.read(fd, 512).decode("ascii", "replace")
        except BlockingIOError:
            name = ""  # the deadline, not an answer
            os.kill(lookup.pid, signal.SIGKILL)
        os.close(fd)
        if not _NAME.fullmatch(name):
            name = ""
        if len(self._known) >= ROOM:
            del self._known[next(iter(self._known))]
        self._known[lookup.host] = (name, now + KEEP)
        return lookup.host, name

    def late(self, now: float) -> list[int]:
        """Name the look-ups whose deadline has passed."""
        return [fd for fd, lookup in self.running.items() if lookup.until <= now]
