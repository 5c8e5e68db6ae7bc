"""Talk with a peer step by step, so that one flow serves in a process and in a loop.

A conversation is a generator. It yields its steps (read, write, send a file), gets back
what each gave, and returns the exit code; what a step raises is raised at its `yield`.
It knows no descriptor and no event loop, and a test can play the peer without either.

The rule of the file: each step means the same in both ways, `blocking` over fd 0 and 1
and `waiting` over the streams of an event loop: the same deadline, and the same TooSlow
when it passes.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from superd.handlers.exits import TooSlow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from superd.handlers.streams import Reader, Writer
    from superd.handlers.wire import Wire

    Conversation = Generator["Step", Any, int]


WAIT: Final = object()
"""What at_once() gives where the step has to be waited for."""


class Step(Protocol):
    """What a conversation asks for."""

    def blocking(self, wire: Wire) -> Any:
        """Do it, however long it takes up to its deadline."""

    def at_once(self, reader: Reader, writer: Writer) -> Any:
        """Do what takes no waiting; WAIT where something is left, for waiting()."""

    async def waiting(self, reader: Reader, writer: Writer) -> Any:
        """Do what at_once() left, and let others be served meanwhile."""


class Read(NamedTuple):
    """Get what the peer sends, at most `size` bytes; empty at its end.

    `idle`: the peer need not send anything. In a loop that is to end, one that has not
    done so for a second is too slow.
    """

    size: int
    deadline: float
    what: str
    idle: bool = False

    def blocking(self, wire: Wire) -> bytes:
        """Read from fd 0."""
        return wire.read(self.size, self.deadline, self.what)

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Take what is there."""
        data = reader.read_nowait(self.size)
        return WAIT if data is None else data

    async def waiting(self, reader: Reader, writer: Writer) -> bytes:  # noqa: ARG002
        """Read from the stream."""
        try:
            return await reader.read(self.size, self.deadline, idle=self.idle)
        except TimeoutError:
            raise TooSlow(f"the peer was too slow with {self.what}") from None


class Write(NamedTuple):
    """Send all of `data`; `more` follows at once.

    In a loop the last 64 KiB are left to the worker, which waits for the peer after the
    conversation is over.
    """

    data: bytes
    deadline: float
    what: str
    more: bool = False

    def blocking(self, wire: Wire) -> None:
        """Write to fd 1."""
        wire.write(self.data, self.deadline, self.what, more=self.more)

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Write to the stream; only the peer may have to be waited for."""
        writer.write(self.data)
        return None if writer.is_drained() else WAIT

    async def waiting(self, reader: Reader, writer: Writer) -> None:  # noqa: ARG002
        """Wait until the peer has read enough."""
        try:
            await writer.drain(self.deadline)
        except TimeoutError:
            _drop_the_rest(writer)
            raise TooSlow(f"the peer was too slow to read {self.what}") from None


class SendFile(NamedTuple):
    """Send `size` bytes of a file from `start`; gives back how many it really had."""

    fd: int
    start: int
    size: int
    deadline: float
    what: str

    def blocking(self, wire: Wire) -> int:
        """Let the kernel copy it to fd 1."""
        return wire.write_file(self.fd, self.start, self.size, self.deadline, self.what)

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Leave it to waiting(): a file is mostly more than fits."""
        return WAIT

    async def waiting(self, reader: Reader, writer: Writer) -> int:  # noqa: ARG002
        """Let the kernel copy it to the stream, behind what was written."""
        try:
            return await writer.sendfile(self.fd, self.start, self.size, self.deadline)
        except TimeoutError:
            _drop_the_rest(writer)
            raise TooSlow(f"the peer was too slow to read {self.what}") from None


class SendAtOnce(NamedTuple):
    """Switch Nagle's algorithm off: before a second write, not for a single one."""

    def blocking(self, wire: Wire) -> None:
        """Set it on fd 1."""
        wire.send_at_once()

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Set it on the stream's socket."""
        sock = writer.get_extra_info("socket")
        with suppress(OSError):  # EOPNOTSUPP: no TCP
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def waiting(self, reader: Reader, writer: Writer) -> None:
        """Nothing is left."""


class Linger(NamedTuple):
    """End our side, wait a moment for the peer to end its own."""

    def blocking(self, wire: Wire) -> None:
        """Do so, unless the launcher will."""
        wire.linger()

    def at_once(self, reader: Reader, writer: Writer) -> None:
        """Leave it to the worker, whose part it is."""

    async def waiting(self, reader: Reader, writer: Writer) -> None:
        """Nothing is left."""


class Work(NamedTuple):
    """Do what takes its time apart from the peer: two spellings of the same."""

    here: Callable[[], Any]
    in_loop: Callable[[], Awaitable[Any]]

    def blocking(self, wire: Wire) -> Any:  # noqa: ARG002
        """Do it here and now."""
        return self.here()

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Leave it to waiting(): it is here because it takes its time."""
        return WAIT

    async def waiting(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Do it where it holds up nobody."""
        return await self.in_loop()


def _drop_the_rest(writer: Writer) -> None:
    """Send no more than the kernel has: the worker would go on waiting for the peer."""
    with suppress(OSError):  # ENOTCONN: the peer is gone
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)


def talk(conversation: Conversation, wire: Wire) -> int:
    """Lead a conversation over fd 0 and 1; returns its exit code."""
    try:
        step = next(conversation)
        while True:
            try:
                result = step.blocking(wire)
            except Exception as error:  # noqa: BLE001  the conversation's to judge
                step = conversation.throw(error)
            else:
                step = conversation.send(result)
    except StopIteration as end:
        code: int = end.value
        return code
    finally:
        conversation.close()


async def talk_in_loop(
    conversation: Conversation, reader: Reader, writer: Writer
) -> int:
    """Lead a conversation over the streams of an event loop; returns its exit code.

    A task that is cancelled ends the conversation at the step it is in.
    """
    try:
        step = next(conversation)
        while True:
            try:
                result = step.at_once(reader, writer)
                if result is WAIT:
                    result = await step.waiting(reader, writer)
            except Exception as error:  # noqa: BLE001  the conversation's to judge
                step = conversation.throw(error)
            else:
                step = conversation.send(result)
    except StopIteration as end:
        code: int = end.value
        return code
    finally:
        conversation.close()
