"""Relay between fd 0 and 1 and a backend: both directions at once, in one process.

The rule of the file: each end of one side is the same end for the other. A half-close is
passed on at once and the other direction goes on; a reset becomes a reset, behind what came
before it; and when neither side has moved a byte for `idle`, both are reset.

`Copying` is that, whoever waits: relay() does here, both_ways.py in an event loop.
"""

from __future__ import annotations

from contextlib import suppress
from select import POLLERR, POLLIN, POLLOUT, poll
from time import monotonic, sleep

from superd.handlers import stdio
from superd.handlers.relay import resetting
from superd.handlers.relay.flow import End, Pipes, flows
from superd.handlers.relay.story import (
    BACKEND_RESET,
    CLOSED,
    IDLE,
    PEER_RESET,
    PEER_STALLED,
    Reset,
)

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from typing import Final, Protocol

    from superd.handlers.relay.story import Story, Tally

    class Poll(Protocol):
        """What waits: select.poll, or the like of it in an event loop."""

        def register(self, fd: int, events: int, /) -> None:
            """Ask for these events of a descriptor, and no others."""

        def unregister(self, fd: int, /) -> None:
            """Ask for nothing of it, not even for its errors."""


_PIPES: Final = 2
"""One each way."""


def relay(backend: socket.socket, story: Story, idle: float, half_closed: float) -> int:
    """Relay up to the end; returns the exit code.

    `backend` is armed for a reset and stays so unless all was said and passed on.
    """
    ends = End(0, PEER_RESET), End(1, PEER_RESET), End(backend.fileno(), BACKEND_RESET)
    pipes = Pipes(_PIPES)
    poller = poll()
    copying = Copying(ends, pipes, poller, idle, half_closed)
    try:
        how = _run(copying, poller)
        if how == CLOSED:
            resetting.disarm(backend)
        else:
            for pause in copying.last_words(how):
                sleep(pause)
    finally:
        copying.tell(story)
        copying.close()
        pipes.close()
    return story.end(how)


def _run(copying: Copying, poller: poll) -> str:
    """Move bytes until there is an end; returns how."""
    try:
        while not copying.is_over:
            left = copying.left
            if left <= 0:
                return copying.late
            copying.ask()
            for fd, events in poller.poll(left * 1000 + 1):
                copying.turn(fd, events)
    except Reset as reset:
        return str(reset)
    return CLOSED


class Copying:
    """Two flows, what is waited for, and what an event means."""

    __slots__ = (
        "_asked",
        "_ends",
        "_half_closed",
        "_idle",
        "_moved",
        "_poll",
        "down",
        "up",
    )

    def __init__(
        self,
        ends: tuple[End, End, End],
        pipes: Pipes,
        poller: Poll,
        idle: float,
        half_closed: float,
    ) -> None:
        """Take what the peer is read from and written to, and the backend."""
        self.up, self.down = flows(*ends, pipes)
        self._ends = ends
        self._idle = idle
        self._half_closed = half_closed
        self._moved = monotonic()
        self._poll = poller
        self._asked: dict[int, int] = {}

    @property
    def is_over(self) -> bool:
        """Both sides have said all and heard all."""
        return self.up.done and self.down.done

    @property
    def is_half(self) -> bool:
        """One side has said all."""
        return self.up.ended or self.down.ended

    @property
    def left(self) -> float:
        """Seconds until it is over, if nothing moves."""
        patience = self._half_closed if self.is_half else self._idle
        return self._moved + patience - monotonic()

    @property
    def late(self) -> str:
        """How it ends then."""
        return PEER_STALLED if self.down.is_held else IDLE

    def ask(self) -> None:
        """Wait for what each flow waits for."""
        wanted: dict[int, int] = {}
        for flow in (self.up, self.down):
            held, source, sink = flow.is_held, flow.source.fd, flow.sink.fd
            reads = POLLIN if not held and not flow.ended else 0
            wanted[source] = wanted.get(source, 0) | reads
            wanted[sink] = wanted.get(sink, 0) | (POLLOUT if held else 0)
        for fd, events in wanted.items():
            if self._asked.get(fd) != events:
                self._poll.register(fd, events)
                self._asked[fd] = events

    def turn(self, fd: int, events: int) -> None:
        """Do what an event is good for. Raises Reset."""
        asked = self._asked[fd]
        for flow in (self.up, self.down):
            # Room alone is nothing to read, and a socket that is not ours to make
            # non-blocking would wait.
            reads = flow.source.fd == fd and asked & POLLIN and events & ~POLLOUT
            writes = flow.sink.fd == fd and asked & POLLOUT
            if (reads or writes) and flow.move():
                self._moved = monotonic()
        if not asked:
            if events & POLLERR:
                raise Reset(self._side_of(fd))
            # POLLHUP, which would be told again and again: it has said all and heard all,
            # and is read when there is room.
            self._poll.unregister(fd)

    def last_words(self, how: str) -> Iterator[float]:
        """Reset the peer, behind what it is to hear; gives the pauses to make."""
        if how == PEER_RESET:
            return
        if how != PEER_STALLED:
            yield from self._deliver(monotonic() + resetting.LAST)
        self.down.sink.reset()

    def _deliver(self, deadline: float) -> Iterator[float]:
        """Give the peer what the backend had said: what is unsent dies with a reset."""
        down = self.down
        # A reset that a write has been told of looks like an end to who reads on.
        down.is_cut = True
        with suppress(Reset):
            while not down.done and monotonic() < deadline:
                at_end = down.ended or not stdio.wait(down.source.fd, POLLIN, 0.0)
                if at_end and not down.is_held:
                    break
                down.move()
                yield resetting.LOOK if down.is_held else 0.0
        while down.sink.unsent() and monotonic() < deadline:
            yield resetting.LOOK

    def tell(self, tally: Tally) -> None:
        """Say what has moved."""
        tally.up, tally.down = self.up.count, self.down.count
        tally.answered = self.down.done

    def close(self) -> None:
        """Let go of everything; the descriptors stay open."""
        self.up.close()
        self.down.close()
        for end in self._ends:
            end.let_go()

    def _side_of(self, fd: int) -> str:
        backend = self.up.sink
        return backend.gone if fd == backend.fd else self.up.source.gone
