"""Wait for descriptors in an event loop by an epoll of our own, which the loop watches.

The rule of the file: who waits may ask for nothing, and still learns that a connection was
reset. loop.add_reader() has no word for that, and a descriptor that is at its end is
readable for ever to it.

An epoll instance is itself readable while one of its descriptors is ready, epoll(7); the
loop sees one descriptor, however many connections there are. What is asked for is changed
by one epoll_ctl(2), in every loop: uvloop makes a handle for each wait, which takes six of
them and more.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[int, int], None]

_TURN: Final = 32
"""Descriptors that are served before the loop goes on; the others come next, epoll(7)."""


class Watcher:
    """What one connection waits for, asked as select.poll is; to be closed.

    A descriptor is unregistered, or its watcher closed, before close(2): a launcher holds
    the same connection, and epoll would go on to tell of it.
    """

    __slots__ = ("_call", "_fds", "_loop")

    def __init__(self, call: Call) -> None:
        """Let `call(fd, events)` be called for what is ready, as long as it is."""
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._fds: set[int] = set()

    def register(self, fd: int, events: int) -> None:
        """Ask for these events (POLLIN, POLLOUT) and no others of a descriptor."""
        self._fds.add(fd)
        epoll = _epolls.get(self._loop)
        if epoll is None:
            epoll = _epolls[self._loop] = _Epoll(self._loop)
        epoll.ask(fd, events, self._call)

    def unregister(self, fd: int) -> None:
        """Ask for nothing more, not even for a reset."""
        if fd in self._fds:
            self._fds.remove(fd)
            epoll = _epolls[self._loop]
            epoll.forget(fd, self._call)
            if epoll.is_idle:
                epoll.close()
                del _epolls[self._loop]

    def close(self) -> None:
        """Ask for nothing more at all."""
        for fd in list(self._fds):
            self.unregister(fd)
        # Who is called mostly holds us: without this only the collector ends the two.
        self._call = _tell_nobody


def _tell_nobody(_fd: int, _events: int) -> None:
    pass


async def ready(fd: int, events: int) -> None:
    """Wait for one of these events of a descriptor."""
    told = asyncio.get_running_loop().create_future()

    def tell(_fd: int, _events: int) -> None:
        if not told.done():
            told.set_result(None)

    watcher = Watcher(tell)
    try:
        watcher.register(fd, events)
        await told
    finally:
        watcher.close()


class _Epoll:
    """The epoll of one loop."""

    __slots__ = ("_asked", "_epoll", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: dict[int, tuple[int, Call]] = {}
        self._epoll = _open(loop, self._ready)

    @property
    def is_idle(self) -> bool:
        """Nobody asks for anything."""
        return not self._asked

    def ask(self, fd: int, events: int, call: Call) -> None:
        """Add a descriptor, or change what is asked for."""
        change = self._epoll.modify if fd in self._asked else self._epoll.register
        self._asked[fd] = events, call
        try:
            change(fd, events)
        except (FileNotFoundError, FileExistsError):
            self._renew()

    def forget(self, fd: int, call: Call) -> None:
        """Leave a descriptor to itself, if it was `call` that was asked for."""
        if self._asked.get(fd, (0, None))[1] != call:
            return  # the number is another connection's by now
        del self._asked[fd]
        try:
            self._epoll.unregister(fd)
        except OSError:
            # ENOENT, EBADF: it was closed before this, and may live on in a launcher.
            self._renew()

    def close(self) -> None:
        """Let the loop alone."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for fd, events in self._epoll.poll(0, _TURN):
            _, call = self._asked.get(fd, (0, None))
            if call is None:
                self._renew()
                return
            call(fd, events)

    def _renew(self) -> None:
        """Be rid of a connection that has no number here any more."""
        self.close()
        self._epoll = _open(self._loop, self._ready)
        for fd, (events, _) in self._asked.items():
            with suppress(OSError):  # EBADF: who asked for it is about to learn of that
                self._epoll.register(fd, events)


def _open(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> select.epoll:
    epoll = select.epoll()
    loop.add_reader(epoll.fileno(), call)
    return epoll


_epolls: dict[asyncio.AbstractEventLoop, _Epoll] = {}
