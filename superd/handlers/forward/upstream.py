"""Talk with the hosts that requests go to, and keep connections for the next request.

The rule of the file: a kept connection on which anything has come unasked, were it only
its end, is never used again. What a host says without being asked would be taken for the
answer to somebody else's request.
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.forward.reply import BadReply, ReplyReader
from superd.streams.reader import CHUNK, Reader
from superd.streams.writer import Writer

if TYPE_CHECKING:
    from superd.handlers.forward.reply import Reply
    from superd.handlers.http.request import Limits

Key = tuple[str, int]
"""A host as the request named it, and its port."""

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
"""As a number: `|` of two enumerated flags takes as long as a system call."""
MOST_KEPT: Final = 256
"""Connections that are kept at once; the oldest goes."""
MOST_KEPT_OF_ONE: Final = 32
KEPT: Final = 30.0
"""Seconds that one is kept. Servers end theirs after 5 s (Apache) to 75 s (nginx), and
what they have ended is seen before it is used again."""


class Lost(Exception):  # noqa: N818  what happened
    """The connection has ended, or failed, before all was said."""


class Late(Exception):  # noqa: N818  as Lost
    """The host has said nothing in time."""


class Upstream:
    """One connection to a host."""

    __slots__ = ("_heads", "_sock", "key", "reader", "since", "used", "writer")

    def __init__(self, sock: socket.socket, key: Key, limits: Limits) -> None:
        """Take over a connected, non-blocking socket."""
        loop = asyncio.get_running_loop()
        self._sock = sock
        self._heads = ReplyReader(limits)
        self.key = key
        self.reader = Reader(sock, loop)
        self.writer = Writer(sock, loop, self.reader)
        self.used = False
        """It has carried a request before: it may be ending just now."""
        self.since = 0.0

    async def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`, or all but 64 KiB. Raises Lost, Late."""
        writer = self.writer
        writer.write(data)
        if writer.is_drained():
            return
        try:
            await writer.drain(deadline)
        except TimeoutError:
            raise Late("it took nothing in time") from None
        except OSError as error:
            raise Lost(error.strerror or "it has gone") from None

    async def read(self, deadline: float, most: int = CHUNK) -> bytes:
        """Return what has come, empty at the end. Raises Lost, Late."""
        try:
            return await self.reader.read(most, deadline)
        except TimeoutError:
            raise Late("it said nothing in time") from None
        except OSError as error:
            raise Lost(error.strerror or "it has gone") from None

    async def next_head(self, deadline: float) -> Reply:
        """Return the next head. Raises BadReply, Lost, Late.

        Lost also where it has ended before the first byte.
        """
        heads = self._heads
        while not heads.pending or (reply := heads.next_head()) is None:
            data = await self.read(deadline)
            if not data:
                if heads.pending:
                    raise BadReply("the answer ends in the middle of its head")
                raise Lost("it ended the connection instead of answering")
            heads.feed(data)
        return reply

    def take(self) -> bytes:
        """Return what has come behind the heads."""
        return self._heads.take()

    @property
    def is_quiet(self) -> bool:
        """Nothing has come that nobody asked for, and it has not ended."""
        if self._heads.pending or self.writer.unsent:
            return False
        try:
            # Not asked of the reader: it would be told as an answer later.
            self._sock.recv(1, _PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it, whatever is under way; who reads from it learns of an end."""
        self.writer.release()
        self._sock.close()


class Upstreams:
    """The connections that are kept, of one event loop."""

    def __init__(self) -> None:
        self._kept: dict[Key, list[Upstream]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, key: Key) -> Upstream | None:
        """Return one to this host, the one used last; None where there is none."""
        kept = self._kept.get(key)
        while kept:
            upstream = kept.pop()
            self._count -= 1
            if not kept:
                del self._kept[key]
            if upstream.is_quiet:
                return upstream
            upstream.close()
        return None

    def keep(self, upstream: Upstream) -> None:
        """Keep one whose answer has been read to its end."""
        upstream.used = True
        upstream.since = monotonic()
        kept = self._kept.setdefault(upstream.key, [])
        kept.append(upstream)
        self._count += 1
        if len(kept) > MOST_KEPT_OF_ONE:
            self._drop_first(upstream.key)
        elif self._count > MOST_KEPT:
            # The host that was asked for the longest time ago.
            self._drop_first(next(iter(self._kept)))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(KEPT, self._expire)

    def _drop_first(self, key: Key) -> None:
        kept = self._kept[key]
        kept.pop(0).close()
        self._count -= 1
        if not kept:
            del self._kept[key]

    def _expire(self) -> None:
        """Close what nobody has asked for."""
        self._timer = None
        old = monotonic() - KEPT
        for key, kept in list(self._kept.items()):
            for upstream in [one for one in kept if one.since <= old]:
                kept.remove(upstream)
                upstream.close()
                self._count -= 1
            if not kept:
                del self._kept[key]
        if self._kept:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(KEPT / 2, self._expire)

    def close(self) -> None:
        """Close all of them."""
        for kept in self._kept.values():
            for upstream in kept:
                upstream.close()
        self._kept.clear()
        self._count = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
