"""Move bytes between a descriptor and a framed joint, with back-pressure.

The rule of the file: nothing is taken that cannot be handed on: a frame waits for its
reader before the next is read, on either side.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline.frames import (
    ABORT,
    CHUNK,
    DATA,
    PACKED,
    STOP,
    FrameError,
    Intake,
    Reader,
    Writer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.handlers.pipeline.joint import Stream
    from superd.handlers.pipeline.zstd import Packer, Unpacker

_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Inflow:
    """From a joint to a program's stdin, or to a descriptor of our own.

    `over`: `end` (whole), `cut` (not whole; `why` says more), `gone` (nobody reads),
    `full` (the descriptor takes no more).
    """

    def __init__(
        self, sock: Stream, target: int, seed: int, unpacker: Unpacker | None = None
    ) -> None:
        self.sock = sock
        self.target = target
        self.over = ""
        self.why = ""
        self.moved = 0
        self._intake = Intake(seed, unpacker)
        self._writer = Writer(seed)
        self._parts: Iterator[bytes] = iter(())
        self._part = memoryview(b"")

    def watch(self, poller: select.poll) -> None:
        """Register what it waits for."""
        poller.register(self.target, select.POLLOUT if self._part else 0)
        if not self._part:
            poller.register(self.sock, select.POLLIN)

    def step(self, ready: dict[int, int]) -> None:
        """Move what can be moved now."""
        if ready.get(self.target, 0) & _GONE:
            self._stop()
        elif self._part and self.target in ready:
            self._move()
        elif not self._part and self.sock.fileno() in ready:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._cut(str(error.strerror))
            return
        if not data:
            self._cut("the connection ended before the stream did")
            return
        self._parts = self._intake.feed(data)
        self._move()

    def _move(self) -> None:
        """Write part after part: the next is made when the one before has gone."""
        try:
            while self._part or self._has_next():
                sent = os.write(self.target, self._part)
                self.moved += sent
                self._part = self._part[sent:]
        except FrameError as error:
            self._cut(str(error))
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stop()
        except OSError as error:
            self.over, self.why = "full", str(error.strerror)
        else:
            if self._intake.is_whole:
                self.over = "end"

    def _has_next(self) -> bool:
        """Take the next part that is not empty: the end of a compressed stream is."""
        self._part = memoryview(next(filter(None, self._parts), b""))
        return bool(self._part)

    def _stop(self) -> None:
        """Tell the stage before that nobody wants more."""
        self.over = "gone"
        try:
            self.sock.send(self._writer.frame(STOP))
        except OSError:
            # Every errno: whoever is gone need not be told to stop.
            return

    def _cut(self, why: str) -> None:
        self.over, self.why = "cut", why


class Outflow:
    """From a program's stdout, or a descriptor of our own, to a joint.

    `over`: `end` (all is sent but the END frame), `sent` (that as well), `gone` (nobody
    reads; `was_stopped` if the stage after said so, or else it is lost).
    """

    def __init__(
        self, source: int, sock: Stream, seed: int, packer: Packer | None = None
    ) -> None:
        self.source = source
        self.sock = sock
        self.packed = 0
        """Bytes of data as they were sent: fewer than `moved` where they shrink."""
        self.over = ""
        self.why = ""
        self.was_stopped = False
        self.moved = 0
        self._is_ending = False
        self._packer = packer
        self._writer = Writer(seed)
        self._reader = Reader(seed)
        self._parts: list[bytes | memoryview] = []

    def watch(self, poller: select.poll) -> None:
        """Register what it waits for; a STOP may come at any time."""
        out = select.POLLOUT if self._parts else 0
        poller.register(self.sock, select.POLLIN | out)
        if not self._parts:
            poller.register(self.source, select.POLLIN)

    def step(self, ready: dict[int, int]) -> None:
        """Move what can be moved now."""
        events = ready.get(self.sock.fileno(), 0)
        if events & ~select.POLLOUT:
            self._hear()
        if not self.over and self._parts and events & select.POLLOUT:
            self._send()
        elif not self.over and not self._parts and self.source in ready:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.over = "end"
            return
        self.moved += len(data)
        self._parts = self._frame(data)
        self._send()

    def _frame(self, data: bytes) -> list[bytes | memoryview]:
        kind = DATA
        if self._packer is not None:
            kind, data = PACKED, self._packer.pack(data)
        self.packed += len(data)
        return [self._writer.head(kind, data), data]

    def _send(self) -> None:
        try:
            while self._parts:
                sent = self.sock.sendmsg(self._parts)
                while self._parts and sent >= len(self._parts[0]):
                    sent -= len(self._parts.pop(0))
                if sent:
                    self._parts[0] = memoryview(self._parts[0])[sent:]
            if self._is_ending:
                self.over = "sent"
        except BlockingIOError:
            return
        except OSError as error:
            # Its last word, if there is one, says whether that is a failure.
            self._hear()
            self.over, self.why = "gone", self.why or str(error.strerror)

    def _hear(self) -> None:
        try:
            data = self.sock.recv(4096)
            for kind, _ in self._reader.feed(data):
                self.was_stopped = self.was_stopped or kind == STOP
            if data and not self.was_stopped:
                return
            self.why = "" if self.was_stopped else "it has closed the joint"
        except BlockingIOError:
            return
        except OSError as error:
            self.why = str(error.strerror)
        except FrameError as error:
            self.why = str(error)
        self.over = "gone"

    def end(self) -> None:
        """Send the frame that makes the stream whole: then `over` becomes `sent`."""
        self.over = ""
        self._is_ending = True
        self._parts = []
        if self._packer is not None:
            last = self._packer.finish()
            self.packed += len(last)
            self._parts += [self._writer.frame(PACKED, last)]
        self._parts += [self._writer.end(self.moved)]
        self._send()

    def abort(self, text: str) -> None:
        """Say why it is not whole, if there is room: the reset says it as well."""
        if self._parts or self.over == "gone":
            return
        frame = self._writer.frame(ABORT, text.encode("utf-8", "backslashreplace"))
        with suppress(OSError):  # every errno: nobody is left who could be told
            self.sock.send(frame)
