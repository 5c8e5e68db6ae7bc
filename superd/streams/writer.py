"""Write to a connection in an event loop, as asyncio.StreamWriter does, but directly.

The rule of this file: what is written leaves at once where the kernel takes it, and in its
order always. What is buffered is bounded by the handler, in drain().
"""

from __future__ import annotations

import errno
import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from superd.streams.reader import BUDGET, COST, blame, expire, let_others_in

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from superd.streams.reader import Reader

    Data = bytes | bytearray | memoryview

HIGH, LOW = 1 << 16, 1 << 14
"""Bytes unsent above which drain() waits, and down to which: asyncio's defaults."""

STEP = 1 << 18
"""Bytes of one sendfile(2)."""

SLOWEST = 1024
"""Bytes a second that a peer must take of what its handler left unsent."""


class Writer:
    """Bytes for the peer: asyncio.StreamWriter, with deadlines and sendfile()."""

    __slots__ = (
        "_buffer",
        "_closing",
        "_environment",
        "_eof",
        "_error",
        "_fd",
        "_loop",
        "_reader",
        "_shut",
        "_sock",
        "_waiters",
        "_watched",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        reader: Reader,
        environment: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Write to `sock`; `environment` makes the handler's, when it asks."""
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._reader = reader
        self._environment = environment
        # Invariant: with something in it the socket is watched.
        self._buffer = bytearray()
        self._eof = self._closing = self._shut = self._watched = False
        self._error: OSError | None = None
        self._waiters: tuple[asyncio.Future[bool], ...] = ()

    # -- writing ----------------------------------------------------------------------

    def write(self, data: Data) -> None:
        """Send what the kernel takes, keep the rest.

        Errors show in drain(). After close() it is thrown away, after write_eof() it is
        a RuntimeError.
        """
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        size = len(data)
        if not size or self._closing or self._error is not None:
            return
        self._reader.spent += COST + size
        if self._buffer:
            self._buffer += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < size:
            self._buffer = bytearray(memoryview(data)[sent:])
            self._watch()

    def writelines(self, data: Iterable[Data]) -> None:
        """Write several pieces."""
        self.write(b"".join(data))

    async def drain(self, deadline: float | None = None) -> None:
        """Wait while much is unsent; a peer that is gone is a ConnectionError.

        TimeoutError when the peer has not taken enough of it at the `deadline`, a moment
        of time.monotonic().
        """
        error = self._error or self._reader.error
        if error is not None:
            raise error
        if self._closing:
            await let_others_in()
            if self._shut:
                raise ConnectionResetError("Connection lost")
        if len(self._buffer) > HIGH:
            while len(self._buffer) > LOW:
                await self._wait(deadline)
        elif self._reader.spent >= BUDGET:
            self._reader.spent = 0
            await let_others_in()

    def is_drained(self) -> bool:
        """Say whether drain() would come back at once, and without an error."""
        reader = self._reader
        return (
            len(self._buffer) <= HIGH
            and reader.spent < BUDGET
            and self._error is None
            and reader.error is None
            and not self._closing
        )

    @property
    def unsent(self) -> int:
        """Bytes that wait for the kernel to take them."""
        return len(self._buffer)

    async def sendfile(
        self, fd: int, offset: int, count: int, deadline: float | None = None
    ) -> int:
        """Send a piece of a file, after what was written; returns how much it had.

        TimeoutError and ConnectionError as drain(); any other OSError is the file's.
        """
        if self._eof or self._closing:
            raise RuntimeError("Cannot call sendfile() after write_eof() or close()")
        await self._empty(deadline)
        done = 0
        while done < count:
            if self._shut:
                # Closed while we waited: the number may be another connection's now.
                raise self._error or ConnectionResetError("Connection lost")
            step = min(count - done, STEP)
            try:
                sent = os.sendfile(self._fd, fd, offset + done, step)
            except BlockingIOError:
                self._watch()
                await self._wait(deadline)
                continue
            except OSError as error:
                if not isinstance(blame(error), ConnectionError):
                    raise
                self._fail(error)
                raise blame(error) from None
            if sent == 0:
                break
            done += sent
            self._reader.spent += COST + sent
            if self._reader.spent >= BUDGET:
                self._reader.spent = 0
                await let_others_in()
        return done

    # -- the end ----------------------------------------------------------------------

    def can_write_eof(self) -> bool:
        """Say True: every connection here can be half-closed."""
        return True

    def write_eof(self) -> None:
        """Let the peer see the end after what was written; reading goes on."""
        if not self._eof and not self._closing:
            self._eof = True
            self._shut_if_empty()

    def close(self) -> None:
        """Send what was written, let the peer see the end; read nothing more."""
        if not self._closing:
            self._closing = True
            self._shut_if_empty()
            self._reader.end(self._reader.error)

    def is_closing(self) -> bool:
        """Say whether close() was called, or the peer is gone."""
        return self._closing or self._error is not None

    async def wait_closed(self) -> None:
        """Wait until close() is done; a ConnectionError when the peer is gone."""
        while not (self._shut and self._closing):
            await self._wait(None)
        if self._error is not None:
            raise self._error

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return peername, sockname, socket, or environment: a handler's variables."""
        if name == "socket":
            return self._sock
        try:
            if name == "environment":
                return self._environment()
            if name == "peername":
                return self._peername()
            if name == "sockname":
                return self._sock.getsockname()
        except OSError:
            return default  # EBADF: this connection is over
        return default

    def _peername(self) -> Any:
        try:
            return self._sock.getpeername()
        except OSError as error:
            # ENOTCONN: it has hung up before it was asked for. It had an address.
            environment = self._environment()
            if error.errno != errno.ENOTCONN or "TCPREMOTEIP" not in environment:
                raise
            return environment["TCPREMOTEIP"], int(environment["TCPREMOTEPORT"])

    # -- for the worker ---------------------------------------------------------------

    async def flush(self, stall: float) -> None:
        """Wait until everything is sent.

        TimeoutError for `stall` seconds of nothing, and for a peer that takes less than
        SLOWEST all the while: a byte now and then would keep its connection for ever.
        """
        last = monotonic() + stall + len(self._buffer) / SLOWEST
        while self._buffer:
            before = len(self._buffer)
            try:
                await self._wait(min(last, monotonic() + stall))
            except TimeoutError:
                if len(self._buffer) == before or monotonic() >= last:
                    raise
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Let go of the socket, which is about to be closed; drop what is unsent."""
        self._buffer = bytearray()
        self._closing = self._shut = True
        self._error = None  # as in Reader.end
        self._unwatch()
        self._wake()
        self._reader.end()

    # -- the socket -------------------------------------------------------------------

    async def _empty(self, deadline: float | None) -> None:
        while self._buffer:
            await self._wait(deadline)
        error = self._error or self._reader.error
        if error is not None:
            raise error

    async def _wait(self, deadline: float | None) -> None:
        """Wait for less in the buffer, for what is watched, or for an end of it all."""
        if self._error is not None:
            raise self._error
        waiter = self._loop.create_future()
        self._waiters = (*self._waiters, waiter)
        timer = None
        if deadline is not None:
            delay = max(0.0, deadline - monotonic())
            timer = self._loop.call_later(delay, expire, waiter)
        try:
            in_time = await waiter
        finally:
            self._waiters = tuple(one for one in self._waiters if one is not waiter)
            if timer is not None:
                timer.cancel()
        self._reader.spent = 0
        if self._error is not None:
            raise self._error
        if not in_time:
            raise TimeoutError("the peer took too little before the deadline")

    def _writable(self) -> None:
        if self._buffer:
            try:
                sent = self._sock.send(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            del self._buffer[:sent]
        if not self._buffer:
            self._buffer = bytearray()  # the old one keeps its memory
            self._unwatch()
            if self._eof or self._closing:
                self._shut_if_empty()
        if len(self._buffer) <= LOW:
            self._wake()

    def _shut_if_empty(self) -> None:
        if self._buffer or self._shut:
            return
        self._shut = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)  # ENOTCONN: the peer has reset it
        self._wake()

    def _fail(self, error: OSError) -> None:
        self._error = blame(error)
        self._buffer = bytearray()
        self._shut = True
        self._unwatch()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_writer(self._fd, self._writable)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_writer(self._fd)
