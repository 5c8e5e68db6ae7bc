"""Read and write a connection in an event loop, as asyncio's streams do, but directly.

Names and meaning are those of asyncio.StreamReader and StreamWriter. What is different is
the way: a call tries recv(2) or send(2) at once and asks the loop only when that would
block, so that a short connection costs little more than its system calls.

The rules of this file:

- Nothing is received that nobody has asked for. A peer that sends faster than its handler
  reads fills the kernel's buffer and has to wait (only a search for a separator takes in
  what comes behind it).
- A handler whose calls succeed at once lets the others in after every 4 of them, or after
  256 KiB: `BUDGET`.
- A buffer is there only while something is in it: an idle connection has none.
- Level-triggered readiness that nobody waits for any more is unwatched when it shows, not
  after each wait: the next wait mostly finds the watch still there.
"""

from __future__ import annotations

import errno
import types
from asyncio import IncompleteReadError, LimitOverrunError
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Generator

LIMIT = 1 << 16
"""Bytes of a line: asyncio's default."""

CHUNK = 1 << 16
"""Bytes of one recv(2)."""

COST = 1 << 16
BUDGET = 4 * COST
"""What a handler may spend before it lets others in. A call costs `COST` and a byte 1."""

GRACE = 1.0
"""Seconds that a peer keeps to ask again after an answer, although no further request is
wanted: one that asks without a pause has its next request under way just now, and hears of
the end with that answer. nginx has keepalive_min_timeout for it."""

ERRNO_PEER_GONE = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)


class LineTooLong(ValueError):  # noqa: N818  the peer's fault, told apart from a bug
    """A line of the peer is longer than the limit; to a handler it is a ValueError."""


@types.coroutine
def let_others_in() -> Generator[None, None, None]:
    """Come back in the next turn of the loop: what asyncio.sleep(0) does."""
    yield


def blame(error: OSError) -> OSError:
    """Name a failed call of a socket: a peer that is gone is a ConnectionError."""
    if error.errno in ERRNO_PEER_GONE and not isinstance(error, ConnectionError):
        return ConnectionResetError(error.errno, error.strerror)
    return error


def expire(waiter: asyncio.Future[bool]) -> None:
    """Let a wait end as one that took too long."""
    if not waiter.done():
        waiter.set_result(False)


class Reader:
    """The peer's bytes: asyncio.StreamReader, with a deadline for read()."""

    __slots__ = (
        "_buffer",
        "_dry",
        "_eof",
        "_fd",
        "_idle",
        "_limit",
        "_loop",
        "_retired",
        "_sock",
        "_waiter",
        "_wanted",
        "_watched",
        "dismissed",
        "error",
        "spent",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        limit: int = LIMIT,
    ) -> None:
        """Read from `sock`, which is non-blocking and stays the caller's."""
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._limit = limit
        # bytes as they came, or a bytearray when some of them, or several, are left.
        self._buffer: bytes | bytearray = b""
        self._eof = False
        self._dry = False  # read_nowait() has found nothing
        self._waiter: asyncio.Future[bool] | None = None
        self._wanted = 0
        self._watched = False
        self._idle: float | None = None  # since when, in a wait between two requests
        self._retired = False
        self.dismissed = False
        """retire() has ended such a wait: the peer has had its answer for GRACE."""
        self.error: OSError | None = None
        """What has ended the connection."""
        self.spent = 0
        """What the handler has spent since it last waited; the writer adds to it."""

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def at_eof(self) -> bool:
        """Say whether the end was read, and everything before it."""
        return self._eof and not self._buffer

    async def read(
        self, n: int = -1, deadline: float | None = None, *, idle: bool = False
    ) -> bytes:
        """Return what is there, at most `n` bytes, or wait for it; b"" at the end.

        Without `n`: everything up to the end. TimeoutError when nothing is there at the
        `deadline`, a moment of time.monotonic(). An `idle` wait, for `n` bytes of a next
        request, where nothing is lost if none comes, ends so after retire() as well.
        """
        if self.error is not None:
            raise self.error
        if n == 0:
            return b""
        if n < 0:
            return await self._read_all(deadline)
        if self.spent >= BUDGET:
            self.spent = 0
            await let_others_in()
        dry = self._dry and not self._buffer and not self._eof
        self._dry = False
        data = None if dry else self.read_nowait(n)
        if data is None:
            self._dry = False
            try:
                await self._wait(n, deadline, idle=idle)
            except TimeoutError:
                data = self.read_nowait(n) if self.dismissed else None
                if data is None:
                    raise
                self.dismissed = False  # a request came at the last moment
                return data
            return self._take(n)
        return data

    def read_nowait(self, n: int) -> bytes | None:
        """Return what read() would without waiting; None where it would wait.

        To be followed by read() then: it does not ask the kernel again.
        """
        if self.error is not None:
            raise self.error
        if self.spent >= BUDGET:
            return None
        if self._buffer or self._eof:
            self.spent += COST
            return self._take(n)
        try:
            data = self._sock.recv(min(n, CHUNK))
        except BlockingIOError:
            self._dry = True
            return None
        except OSError as error:
            self.error = blame(error)
            raise self.error from None
        self.spent += COST + len(data)
        if not data:
            self._eof = True
        return data

    async def readexactly(self, n: int) -> bytes:
        """Return `n` bytes; asyncio.IncompleteReadError when the end comes before."""
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        if self.error is not None:
            raise self.error
        while len(self._buffer) < n:
            if self._eof:
                raise IncompleteReadError(self._take(n), n)
            await self._receive(n - len(self._buffer))
        if self.spent >= BUDGET:
            self.spent = 0
            await let_others_in()
        self.spent += COST
        return self._take(n)

    async def readline(self) -> bytes:
        """Return a line with its end; what there is, when the stream ends before that.

        ValueError for a line longer than the limit; it is skipped as far as it came.
        """
        try:
            return await self.readuntil(b"\n")
        except IncompleteReadError as error:
            return error.partial
        except LimitOverrunError as error:
            if self._buffer.startswith(b"\n", error.consumed):
                self._take(error.consumed + 1)
            else:
                self._buffer = b""
            raise LineTooLong(error.args[0]) from None

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return everything up to the separator, with it.

        asyncio.IncompleteReadError at the end of the stream, asyncio.LimitOverrunError
        for too much of it, which stays to be read.
        """
        size = len(separator)
        if size == 0:
            raise ValueError("Separator should be at least one-byte string")
        if self.error is not None:
            raise self.error
        if self.spent >= BUDGET:
            self.spent = 0
            await let_others_in()
        searched = 0
        while (at := self._buffer.find(separator, searched)) < 0:
            searched = max(searched, len(self._buffer) + 1 - size)
            if searched > self._limit:
                raise LimitOverrunError(
                    "Separator is not found, and chunk exceed the limit", searched
                )
            if self._eof:
                rest = self._take(len(self._buffer))
                raise IncompleteReadError(rest, None)
            await self._receive(CHUNK)
        if at > self._limit:
            raise LimitOverrunError(
                "Separator is found, but chunk is longer than limit", at
            )
        self.spent += COST
        return self._take(at + size)

    async def _read_all(self, deadline: float | None) -> bytes:
        parts = []
        while data := await self.read(CHUNK, deadline):
            parts.append(data)
        return b"".join(parts)

    # -- the buffer -------------------------------------------------------------------

    def _take(self, n: int) -> bytes:
        """Cut the first `n` bytes off the buffer, or what is in it."""
        buffer = self._buffer
        if len(buffer) <= n:
            self._buffer = b""
            return bytes(buffer)
        if isinstance(buffer, bytes):
            buffer = self._buffer = bytearray(buffer)
        data = bytes(memoryview(buffer)[:n])
        del buffer[:n]
        return data

    def _put(self, data: bytes) -> None:
        if not data:
            self._eof = True
        elif not self._buffer:
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data

    # -- the socket -------------------------------------------------------------------

    async def _receive(self, wanted: int) -> None:
        """Add to the buffer, at most `wanted` bytes, or learn of the end."""
        if self.spent >= BUDGET:
            self.spent = 0
            await let_others_in()
            if self._eof:
                return  # closed meanwhile
        try:
            data = self._sock.recv(min(wanted, CHUNK))
        except BlockingIOError:
            await self._wait(wanted, None)
            return
        except OSError as error:
            self.error = blame(error)
            raise self.error from None
        self.spent += COST + len(data)
        self._put(data)

    async def _wait(
        self, wanted: int, deadline: float | None, *, idle: bool = False
    ) -> None:
        """Wait until something is in the buffer, or the end has come."""
        if self._waiter is not None:
            raise RuntimeError(
                "read() called while another coroutine is already waiting for incoming"
                " data"
            )
        self._wanted = min(wanted, CHUNK)
        self._waiter = waiter = self._loop.create_future()
        timer = None
        if deadline is not None:
            delay = max(0.0, deadline - monotonic())
            timer = self._loop.call_later(delay, expire, waiter)
        if idle:
            self._idle = monotonic()
            if self._retired:
                self._loop.call_later(GRACE, self._dismiss, waiter)
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._fd, self._readable)
        try:
            in_time = await waiter
        finally:
            self._waiter = self._idle = None
            if timer is not None:
                timer.cancel()
        self.spent = 0
        if self.error is not None:
            raise self.error
        if not in_time:
            raise TimeoutError("the peer sent nothing before the deadline")

    def _readable(self) -> None:
        # Received here and not after the handler has woken up, a turn later: until then
        # the socket would be readable still, and be announced again.
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._unwatch()
            return
        try:
            data = self._sock.recv(self._wanted)
        except BlockingIOError:
            return
        except OSError as error:
            self.error = blame(error)
            self._unwatch()
        else:
            if not data:
                self._unwatch()
            self._put(data)
        waiter.set_result(True)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def is_retiring(self) -> bool:
        """Say whether there should be no further request."""
        return self._retired

    def retire(self) -> None:
        """End the idle wait that there is, and any that follows, after GRACE of it."""
        self._retired = True
        if self._waiter is not None and self._idle is not None:
            delay = max(0.0, self._idle + GRACE - monotonic())
            self._loop.call_later(delay, self._dismiss, self._waiter)

    def _dismiss(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            self.dismissed = True
            waiter.set_result(False)

    def end(self, error: OSError | None = None) -> None:
        """Read no more: what is buffered, then the end (or the error)."""
        self._eof = True
        # An error that was raised holds the frames it passed, and they hold us.
        self.error = error
        self._unwatch()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)
