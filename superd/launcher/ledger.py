"""Share one page between a worker and its launcher: what the worker is doing.

The worker writes, the launcher reads: after the worker's death as well, which is when it
matters. Times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import mmap
import time

_CONN, _SINCE, _SERVED, _LEFT, _BEAT = range(5)

RENEW = 1
RETIRED = 2


class Ledger:
    """The page of one seat."""

    __slots__ = ("_map", "_words")

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Give the page back."""
        self._words.release()
        self._map.close()

    # -- the worker -------------------------------------------------------------------

    def begin(self, conn: int) -> None:
        """Take a connection; the time first, so that no reader sees an old one."""
        self._words[_SINCE] = time.monotonic_ns()
        self._words[_CONN] = conn

    def end(self) -> None:
        """Be done with it."""
        self._words[_CONN] = 0
        self._words[_SERVED] += 1

    def leave(self, why: int) -> None:
        """Say that the end that follows is meant: RENEW or RETIRED."""
        self._words[_LEFT] = why

    def beat(self, live: int) -> None:
        """Show that the event loop turns; with nothing to do it need not."""
        self._words[_BEAT] = time.monotonic_ns() if live else 0

    # -- the launcher -----------------------------------------------------------------

    def clear(self) -> None:
        """Begin anew for the next worker."""
        for number in range(5):
            self._words[number] = 0

    @property
    def conn(self) -> int:
        """The connection that is served, or 0."""
        return self._words[_CONN]

    @property
    def served(self) -> int:
        """Connections that this worker is done with."""
        return self._words[_SERVED]

    @property
    def left(self) -> int:
        """RENEW, RETIRED, or 0: it was not meant to end."""
        return self._words[_LEFT]

    def age(self, now: float) -> float:
        """Seconds since the connection of now was taken."""
        return now - self._words[_SINCE] / 1e9

    def silence(self, now: float) -> float:
        """Seconds since the event loop turned last, with something to do."""
        beat = self._words[_BEAT]
        return now - beat / 1e9 if beat else 0.0
