"""Move bytes from one descriptor to another, with back-pressure.

The rule of the file: nothing is read that cannot be written. A flow waits for its source
or for its target, never for both, so what a slow reader does not take stays where it is,
up to the program that makes it. And it always watches its target for the end of whoever
reads there, or a `yes` would fill buffers long after `head` has left.

With a pipe on either side the kernel moves pages (splice(2)), and no byte passes through
here. Where it cannot (no pipe, a terminal, a file in append mode: EINVAL) bytes are read
and written.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from typing import Final

_STEP: Final = 1 << 20
_READ: Final = 1 << 18
_FLAGS: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Flow:
    """One direction, from a source to a target; `moved` counts its bytes.

    `over` is empty while it flows, then `end` (all was moved), `cut` (the source failed:
    what came is not all, `why` says more) or `gone` (nobody reads the target any more).
    """

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.moved = 0
        self.over = ""
        self.why = ""
        self._rest = memoryview(b"")
        self._full = False
        self._spliced = True
        self._from_socket = stat.S_ISSOCK(os.fstat(source).st_mode)

    def watch(self, poller: select.poll) -> None:
        """Register what it waits for now."""
        poller.register(self.target, select.POLLOUT if self._full else 0)
        if not self._full:
            poller.register(self.source, select.POLLIN)

    def step(self, ready: dict[int, int]) -> None:
        """Move what can be moved without waiting."""
        if ready.get(self.target, 0) & _GONE:
            self.over = "gone"
        elif self.source in ready or self.target in ready:
            try:
                self._move()
            except BlockingIOError:
                self._full = self._can_be_read()

    def _move(self) -> None:
        if self._spliced:
            try:
                count = os.splice(self.source, self.target, _STEP, flags=_FLAGS)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    self._failed(error, reading=self._from_socket)
                    return
                self._spliced = False
            else:
                self._full = False
                self.moved += count
                if not count:
                    self.over = "end"
                return
        self._copy()

    def _copy(self) -> None:
        if not self._rest:
            try:
                self._rest = memoryview(os.read(self.source, _READ))
            except OSError as error:
                self._failed(error, reading=True)
                return
            if not self._rest:
                self.over = "end"
                return
        try:
            count = os.write(self.target, self._rest)
        except BlockingIOError:
            self._full = True
            return
        except OSError as error:
            self._failed(error, reading=False)
            return
        self.moved += count
        self._rest = self._rest[count:]
        self._full = bool(self._rest)

    def _failed(self, error: OSError, *, reading: bool) -> None:
        if isinstance(error, BlockingIOError):
            raise error
        # EPIPE is always of the target; with splice the socket tells which side it was.
        if reading and error.errno != errno.EPIPE:
            self.over = "cut"
        else:
            self.over = "gone" if error.errno in _READER_GONE else "full"
        code = errno.errorcode.get(error.errno or 0, "")
        self.why = f"{code} ({error.strerror})"

    def _can_be_read(self) -> bool:
        """Tell which side it was that would block: the source has something, or not."""
        poller = select.poll()
        poller.register(self.source, select.POLLIN)
        return bool(poller.poll(0))


_READER_GONE: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH}
)
