"""Ask accounts, programs and hosts without holding up an event loop.

The rule of the file: what may block (a directory service, a home on a dead file server, a
program) is waited for in a thread, so many at once and no more. Only serve() loads this.
"""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import finger_program, stdio
from superd.handlers.finger_forward import addresses_of, share
from superd.handlers.run import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeVar

    from superd.handlers.finger_forward import Hop

    T = TypeVar("T")

AT_ONCE: Final = 8
"""Finger programs of one worker, and hosts it asks; a query that gets no turn in time is
told nothing."""


_NO_TURN: Final = f"{AT_ONCE} run already and none ended in time"


class Helpers:
    """The threads of one event loop, and the turns of its programs."""

    def __init__(self) -> None:
        # Three kinds, so that neither a slow program nor a name server that is away
        # holds up the answer about nobody.
        self._lookups = ThreadPoolExecutor(AT_ONCE)
        self._resolvers = ThreadPoolExecutor(AT_ONCE)
        self._programs = ThreadPoolExecutor(AT_ONCE)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def look(self, work: Callable[[], T]) -> T:
        """Look up an account, or read files."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lookups, work)

    async def ask(
        self, program: str, flags: list[str], deadline: float, cap: int
    ) -> tuple[bytes, str]:
        """Run the program, as finger_program.ask does; it dies when we are cancelled."""
        async with self._turn(deadline) as has_turn:
            if not has_turn:
                return b"", _NO_TURN
            pid, reader = finger_program.start(program, flags)
            try:
                return await self._collect(reader, deadline, cap)
            finally:
                # The thread sees the end of what it reads; what cannot be killed and
                # still has the pipe keeps it up to the deadline.
                finger_program.end(pid)

    async def speak(
        self, program: str, flags: list[str], fd: int, deadline: float
    ) -> str:
        """Let the program write to `fd`, as finger_program.speak does."""
        async with self._turn(deadline) as has_turn:
            if not has_turn:
                return _NO_TURN
            # O_NONBLOCK is the connection's, not the descriptor's: a program that does
            # not know of it loses what does not fit. Nobody reads or writes meanwhile.
            os.set_blocking(fd, True)
            try:
                pid = finger_program.start_on(program, flags, fd)
                try:
                    return await _ended(pid, deadline)
                finally:
                    finger_program.end(pid)
            finally:
                os.set_blocking(fd, False)

    async def forward(self, hop: Hop, deadline: float, cap: int) -> tuple[bytes, str]:
        """Ask another host, as finger_forward.ask does."""
        async with self._turn(deadline) as has_turn:
            if not has_turn:
                return b"", _NO_TURN
            heard = bytearray()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._relay(hop, deadline, cap, heard)
            except TimeoutError:
                return bytes(heard), "the host took too long"
            except OSError as error:
                return bytes(heard), describe(error)
            if len(heard) < cap:
                return bytes(heard), ""
            return bytes(heard), f"the host said more than {cap} bytes"

    async def _relay(
        self, hop: Hop, deadline: float, cap: int, heard: bytearray
    ) -> None:
        loop = asyncio.get_running_loop()
        with await self._connect(hop, deadline) as sock:
            await loop.sock_sendall(sock, hop.line)
            while len(heard) < cap:
                data = await loop.sock_recv(sock, min(stdio.CHUNK, cap - len(heard)))
                if not data:
                    return
                heard += data

    async def _connect(self, hop: Hop, deadline: float) -> socket.socket:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._resolvers, addresses_of, hop)
        for number, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                async with asyncio.timeout(share(deadline, len(found) - number)):
                    await loop.sock_connect(sock, address)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError) or number == len(found) - 1:
                    raise
            else:
                return sock
        raise OSError(f"{hop.host} has no address")

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[bool]:
        """Wait for a turn; gives False where none came in time."""
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._turns.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            self._turns.release()

    async def _collect(
        self, reader: int, deadline: float, cap: int
    ) -> tuple[bytes, str]:
        collecting = self._programs.submit(
            finger_program.collect, reader, deadline, cap
        )
        try:
            return await asyncio.wrap_future(collecting)
        except asyncio.CancelledError:
            if collecting.cancelled():
                os.close(reader)  # it had not begun
            raise


async def _ended(pid: int, deadline: float) -> str:
    """Wait for the end of a process; returns what cut it short."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)
    try:
        end = asyncio.Event()
        loop.add_reader(pidfd, end.set)
        try:
            async with asyncio.timeout_at(deadline):
                await end.wait()
        finally:
            loop.remove_reader(pidfd)
    except TimeoutError:
        return finger_program.TOO_LONG
    finally:
        os.close(pidfd)
    return ""


_helpers: dict[asyncio.AbstractEventLoop, Helpers] = {}


def helpers() -> Helpers:
    """Return those of the running loop: a worker has one loop all its life."""
    loop = asyncio.get_running_loop()
    if loop not in _helpers:
        _helpers.clear()
        _helpers[loop] = Helpers()
    return _helpers[loop]
