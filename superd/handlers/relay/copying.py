"""Relay between fd 0 and 1 and a backend: both directions at once, in one process.

The rule of the file: each end of one side is the same end for the other. A half-close is
passed on at once and the other direction goes on; a reset becomes a reset, behind what came
before it; and when neither side has moved a byte for `idle`, both are reset.
"""

from __future__ import annotations

from contextlib import suppress
from select import POLLERR, POLLIN, POLLOUT, poll
from time import monotonic, sleep

from superd.handlers import stdio
from superd.handlers.relay import resetting
from superd.handlers.relay.flow import End, flows
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

    from superd.handlers.relay.story import Story


def relay(backend: socket.socket, story: Story, idle: float, half_closed: float) -> int:
    """Relay up to the end; returns the exit code.

    `backend` is armed for a reset and stays so unless all was said and passed on.
    """
    ends = End(0, PEER_RESET), End(1, PEER_RESET), End(backend.fileno(), BACKEND_RESET)
    relaying = _Relay(ends, idle, half_closed)
    try:
        how = relaying.run()
        if how == CLOSED:
            resetting.disarm(backend)
        elif how != PEER_RESET:
            if how != PEER_STALLED:
                relaying.deliver(monotonic() + resetting.LAST)
            ends[1].reset()
    finally:
        story.up, story.down = relaying.up.count, relaying.down.count
        relaying.close()
        for end in ends:
            end.let_go()
    return story.end(how, answered=relaying.down.done)


class _Relay:
    """Two flows and what is waited for."""

    def __init__(
        self, ends: tuple[End, End, End], idle: float, half_closed: float
    ) -> None:
        self.up, self.down = flows(*ends)
        self._idle = idle
        self._half_closed = half_closed
        self._moved = monotonic()
        self._poll = poll()
        self._watched: dict[int, int] = {}

    def run(self) -> str:
        """Move bytes until there is an end; returns how."""
        try:
            while not (self.up.done and self.down.done):
                half = self.up.ended or self.down.ended
                patience = self._half_closed if half else self._idle
                left = self._moved + patience - monotonic()
                if left <= 0:
                    return PEER_STALLED if self.down.is_held else IDLE
                self._watch()
                for fd, events in self._poll.poll(left * 1000 + 1):
                    self._turn(fd, events)
        except Reset as reset:
            return str(reset)
        return CLOSED

    def deliver(self, deadline: float) -> None:
        """Give the peer what the backend had said: what is unsent dies with a reset."""
        down = self.down
        # A reset that a write has been told of looks like an end to who reads on.
        down.is_cut = True
        with suppress(Reset):
            while not down.done and monotonic() < deadline:
                at_end = down.ended or not _is_readable(down.source.fd)
                if at_end and not down.is_held:
                    break
                down.move()
                if down.is_held:
                    stdio.wait(down.sink.fd, POLLOUT, deadline - monotonic())
        while down.sink.unsent() and monotonic() < deadline:
            sleep(resetting.LOOK)

    def close(self) -> None:
        """Close what the flows have opened."""
        self.up.close()
        self.down.close()

    def _watch(self) -> None:
        """Ask for what each flow waits for."""
        wanted: dict[int, int] = {}
        for flow in (self.up, self.down):
            held, source, sink = flow.is_held, flow.source.fd, flow.sink.fd
            reads = POLLIN if not held and not flow.ended else 0
            wanted[source] = wanted.get(source, 0) | reads
            wanted[sink] = wanted.get(sink, 0) | (POLLOUT if held else 0)
        for fd, events in wanted.items():
            if self._watched.get(fd) != events:
                self._poll.register(fd, events)
                self._watched[fd] = events

    def _turn(self, fd: int, events: int) -> None:
        asked = self._watched[fd]
        for flow in (self.up, self.down):
            reads = flow.source.fd == fd and asked & POLLIN
            writes = flow.sink.fd == fd and asked & POLLOUT
            if (reads or writes) and flow.move():
                self._moved = monotonic()
        if not asked:
            if events & POLLERR:
                raise Reset(self._side_of(fd))
            # POLLHUP, which would be told again and again: it has said all and heard all,
            # and is read when there is room.
            self._poll.unregister(fd)

    def _side_of(self, fd: int) -> str:
        backend = self.up.sink
        return backend.gone if fd == backend.fd else self.up.source.gone


def _is_readable(fd: int) -> bool:
    return stdio.wait(fd, POLLIN, 0.0)
