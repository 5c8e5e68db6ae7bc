"""Connect to a backend: every address of it, staggered, up to a deadline.

The rule of the file: an address that does not answer costs 250 ms, not its whole share of
the time (RFC 8305), and no address is tried that leads back to where we are called.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from select import POLLERR, POLLOUT, poll
from time import monotonic

from superd.handlers.exits import PeerGone, SetupError
from superd.handlers.relay.addresses import plain
from superd.handlers.relay.lookup import targets_of
from superd.handlers.relay.resetting import arm

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from superd.handlers.relay.addresses import Backend, Target
    from superd.handlers.relay.backends import Search

STAGGER: Final = 0.25
"""Seconds until the next address is tried beside the first: RFC 8305 8's advice."""
FULL_AGAIN: Final = 0.02
"""Seconds until a Unix socket whose backlog is full is asked again: nothing tells."""


def open_backend(
    search: Search, own: Any, hello: bytes
) -> tuple[Backend, socket.socket] | None:
    """Connect to the first backend that answers and say `hello`; None if none does.

    PeerGone when the peer of fd 0 resets meanwhile, SetupError for a loop to `own`, the
    address we are called at.
    """
    for backend, deadline in search.backends():
        try:
            targets = targets_of(backend, deadline)
            refuse_loop(backend, targets, own)
            sock = _race(targets, deadline)
            say(sock, hello)
        except OSError as error:
            search.failed(backend, error, monotonic())
        else:
            search.found(backend)
            return backend, sock
    return None


def refuse_loop(backend: Backend, targets: Sequence[Target], own: Any) -> None:
    """Raise SetupError where a backend is the very address that we are called at."""
    for target in targets:
        if isinstance(own, tuple) and isinstance(target.address, tuple):
            address = plain(own[0]), own[1]
            loops = (plain(target.address[0]), target.address[1]) == address
        else:
            loops = bool(own) and _is_same_file(own, target.address)
        if loops:
            raise SetupError(
                f"option --to: {backend.text} is the address of this service itself:"
                " a loop"
            )


def begin(target: Target) -> tuple[socket.socket, int]:
    """Start to connect; returns the socket and the errno, 0 for connected."""
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        return sock, sock.connect_ex(target.address)
    except BaseException:
        sock.close()
        raise


def settle(sock: socket.socket) -> socket.socket:
    """Make a fresh connection ours; raises for one with itself."""
    if sock.family != socket.AF_UNIX:
        # Where nobody listens on a port of the ephemeral range, the kernel may choose
        # the same one for us: both ends are then the same socket (RFC 9293 3.5).
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
        # What the peer sends is passed on as it comes, not when more follows.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    arm(sock)
    return sock


def say(sock: socket.socket, hello: bytes) -> None:
    """Send the first bytes, which a fresh socket has room for; it is closed if not."""
    try:
        if hello and sock.send(hello) < len(hello):
            raise ConnectionAbortedError(errno.ECONNABORTED, "no room for the header")
    except OSError:
        sock.close()
        raise


def raise_errno(code: int) -> None:
    """Raise what a failed connect(2) is."""
    if code:
        raise OSError(code, os.strerror(code))


def _race(targets: Sequence[Target], deadline: float) -> socket.socket:
    """Try the targets, one more each 250 ms or as soon as one fails."""
    race = _Race(targets, deadline)
    try:
        while True:
            winner = race.step()
            if winner is not None:
                return winner
    finally:
        race.close()


class _Race:
    """Attempts to connect that run beside each other."""

    def __init__(self, targets: Sequence[Target], deadline: float) -> None:
        self._queue = list(targets)
        self._deadline = deadline
        self._next = monotonic()
        self._running: dict[int, socket.socket] = {}
        self._error: OSError = TimeoutError("it did not answer in time")
        self._poll = poll()
        # Nothing is asked for: a peer that resets announces itself.
        self._poll.register(0, 0)

    def step(self) -> socket.socket | None:
        """Start an attempt or wait for one; OSError when there is none left."""
        now = monotonic()
        if now >= self._deadline:
            raise TimeoutError("it did not answer in time")
        if self._queue and now >= self._next:
            return self._start(self._queue.pop(0), now)
        if not self._running and not self._queue:
            raise self._error
        limit = min(self._next, self._deadline) if self._queue else self._deadline
        for fd, events in self._poll.poll((limit - now) * 1000 + 1):
            if fd in self._running:
                return self._finish(fd)
            if events & POLLERR:
                raise PeerGone("ECONNRESET")
            self._poll.unregister(fd)  # POLLHUP: it has said all, and may still listen
        return None

    def _start(self, target: Target, now: float) -> socket.socket | None:
        self._next = now + STAGGER
        try:
            sock, code = begin(target)
        except OSError as error:
            self._fail(error)
            return None
        self._running[sock.fileno()] = sock
        if code == errno.EINPROGRESS:
            self._poll.register(sock, POLLOUT)
            return None
        if code == errno.EAGAIN and target.family == socket.AF_UNIX:
            self._drop(sock)
            self._queue.append(target)
            self._next = now + FULL_AGAIN
            return None
        self._poll.register(sock, POLLOUT)
        return self._judge(sock, code)

    def _finish(self, fd: int) -> socket.socket | None:
        sock = self._running[fd]
        return self._judge(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _judge(self, sock: socket.socket, code: int) -> socket.socket | None:
        self._poll.unregister(sock)
        try:
            raise_errno(code)
            settle(sock)
        except OSError as error:
            self._drop(sock)
            self._fail(error)
            return None
        del self._running[sock.fileno()]
        return sock

    def _fail(self, error: OSError) -> None:
        self._error = error
        self._next = monotonic()

    def _drop(self, sock: socket.socket) -> None:
        del self._running[sock.fileno()]
        sock.close()

    def close(self) -> None:
        """Give up the attempts that have not won."""
        for sock in self._running.values():
            sock.close()


def _is_same_file(own: Any, path: Any) -> bool:
    with suppress(OSError, TypeError, ValueError):
        return os.path.samefile(own, path)
    return False
