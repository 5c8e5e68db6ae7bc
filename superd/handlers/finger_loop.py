"""Ask accounts and the finger program without holding up an event loop.

The rule of the file: what may block (a directory service, a home on a dead file server, a
program) is waited for in a thread, so many at once and no more. Only serve() loads this.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import finger_accounts, finger_program

if TYPE_CHECKING:
    from superd.handlers.finger_accounts import Account

AT_ONCE: Final = 8
"""Finger programs of one worker; a query that gets no turn in time is told nothing."""


class Helpers:
    """The threads of one event loop, and the turns of its programs."""

    def __init__(self) -> None:
        # Two kinds, so that a slow program does not hold up the answer about nobody.
        self._lookups = ThreadPoolExecutor(AT_ONCE)
        self._programs = ThreadPoolExecutor(AT_ONCE)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def find(self, name: str, min_uid: int) -> Account | None:
        """Look up a login name, as finger_accounts.find does."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._lookups, finger_accounts.find, name, min_uid
        )

    async def ask(
        self, program: str, flags: list[str], deadline: float, cap: int
    ) -> tuple[bytes, str]:
        """Run the program, as finger_program.ask does; it dies when we are cancelled."""
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._turns.acquire()
        except TimeoutError:
            return b"", f"{AT_ONCE} run already and none ended in time"
        try:
            pid, reader = finger_program.start(program, flags)
            try:
                return await self._collect(reader, deadline, cap)
            finally:
                # The thread sees the end of what it reads; what cannot be killed and
                # still has the pipe keeps it up to the deadline.
                finger_program.end(pid)
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


_helpers: dict[asyncio.AbstractEventLoop, Helpers] = {}


def helpers() -> Helpers:
    """Return those of the running loop: a worker has one loop all its life."""
    loop = asyncio.get_running_loop()
    if loop not in _helpers:
        _helpers.clear()
        _helpers[loop] = Helpers()
    return _helpers[loop]
