"""Read requests of one peer and write answers to it.

The rule of the file: every wait for the peer has a deadline, and what the peer sends
behind a request stays for the next one, whoever has read it.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.exits import TooSlow
from superd.handlers.forward.chunks import BadFraming
from superd.handlers.http.refusal import Refused
from superd.handlers.http.request import HeadReader

if TYPE_CHECKING:
    from superd.handlers.forward.framing import Body
    from superd.handlers.forward.plan import Plan
    from superd.handlers.http.request import Request
    from superd.handlers.streams import Reader, Writer

CHUNK: Final = 65536
MORSEL: Final = 4096
"""Bytes that are read at once of a body that is costly: 2 ms of work."""
_AHEAD: Final = 65536
"""Bytes that are taken in behind a request which is being answered."""
DROPPED: Final = 65536
"""Bytes of a body that are read away to keep a connection whose request was refused."""


class Client:
    """The peer."""

    __slots__ = ("begun", "heads", "plan", "reader", "received", "sent", "writer")

    def __init__(self, plan: Plan, reader: Reader, writer: Writer) -> None:
        self.plan = plan
        self.reader = reader
        self.writer = writer
        self.heads = HeadReader(plan.bounds.head)
        self.received = self.sent = 0
        """Bytes so far."""
        self.begun = False
        """Some of the body of this request was read: where it ends, its reader knows."""

    async def read(
        self, deadline: float, what: str, most: int = CHUNK, *, idle: bool = False
    ) -> bytes:
        """Return what the peer sent, empty at its end. Raises TooSlow."""
        try:
            data = await self.reader.read(most, deadline, idle=idle)
        except TimeoutError:
            raise TooSlow(f"the peer was too slow with {what}") from None
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        """Send `data`, or all but 64 KiB of it. Raises TooSlow."""
        writer = self.writer
        writer.write(data)
        self.sent += len(data)
        if writer.is_drained():
            return
        try:
            await writer.drain(monotonic() + self.plan.timeouts.send)
        except TimeoutError:
            raise TooSlow("the peer was too slow to read the answer") from None

    async def begins(self) -> bool:
        """Wait for a further request to begin; False if there is none."""
        if self.heads.pending:
            return True
        idle = monotonic() + self.plan.timeouts.idle
        try:
            data = await self.read(idle, "its next request", idle=True)
        except TooSlow:
            return False
        self.heads.feed(data)
        return bool(data)

    async def next_head(self) -> bytes | None:
        """Return the next head; None if the peer has ended. Raises Refused, TooSlow."""
        heads = self.heads
        deadline = monotonic() + self.plan.timeouts.head
        while not heads.pending or (head := heads.next_head()) is None:
            data = await self.read(deadline, "its request")
            if data:
                heads.feed(data)
            elif heads.pending:
                raise Refused(400, "the request ends in the middle")
            else:
                return None
        return head

    def is_over(self, request: Request) -> bool:
        """Tell whether to end after this one; requests sent ahead get all answers."""
        ahead = self.heads.pending and request.length == 0
        return self.reader.is_retiring() and not ahead

    def look(self) -> None:
        """Take in what has come meanwhile; ConnectionError when the peer has gone.

        One that has only ended its own side may still read.
        """
        if self.heads.size < _AHEAD:
            data = self.reader.read_nowait(CHUNK)
            if data:
                self.received += len(data)
                self.heads.feed(data)

    async def drop(self, body: Body) -> bool:
        """Read a small body away; False where it is not small, or not there in time."""
        left = DROPPED
        deadline = monotonic() + min(2.0, self.plan.timeouts.body)
        data = self.heads.take()
        while True:
            try:
                body.feed(data)
            except BadFraming:
                # Refused it is already; where the next request begins, nobody knows.
                return False
            if body.done:
                self.heads.feed(body.rest)
                return True
            left -= len(data)
            if left <= 0:
                return False
            try:
                data = await self.read(deadline, "the body of its request")
            except TooSlow:
                return False
            if not data:
                return False
