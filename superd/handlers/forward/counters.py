"""Count requests, bytes and what the cache was good for, over all processes of a service.

The rule of the file: no lock, and no count is lost but by two processes whose numbers
differ by a multiple of 256 and which count within the same microsecond. The page of
memory is made before the processes are forked, and is theirs together.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from superd.handlers.forward.record import Record

_SLOTS: Final = 256
_CACHE: Final = ("hit", "miss", "revalidated", "stale")
NAMES: Final = (
    ("requests_total", "Requests, tunnels included."),
    ("received_bytes_total", "Bytes that came from peers."),
    ("sent_bytes_total", "Bytes that went to peers."),
    ("seconds_total", "Time that requests took, in seconds."),
    ("connects_total", "Connections opened to other hosts."),
    ("reuses_total", "Requests that went over a connection opened before."),
    *(
        (f'responses_total{{status="{digit}xx"}}', "Answers, by class of status.")
        for digit in range(1, 6)
    ),
    *(
        (f'cache_total{{result="{what}"}}', "Requests that the cache was asked for.")
        for what in _CACHE
    ),
)
"""In the order of the numbers in a slot."""
_CONNECTS: Final = 4
_REUSES: Final = 5
_STATUS: Final = 6
_CACHED: Final = 11
_ROOM: Final = 32
"""Doubles between two slots: no two share a line of a processor's cache. Doubles are exact
for whole numbers up to 2**53."""


class Counters:
    """The counts of a service."""

    def __init__(self) -> None:
        page = mmap.mmap(-1, _SLOTS * _ROOM * 8)
        self._counts = memoryview(page).cast("d")
        self._at = -1
        # The number of a process is a system call, and who is forked has another one.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._at = -1

    def _slot(self) -> int:
        if self._at < 0:
            self._at = os.getpid() % _SLOTS * _ROOM
        return self._at

    def add(self, record: Record, seconds: float) -> None:
        """Count a request that is over."""
        counts, at = self._counts, self._slot()
        counts[at] += 1
        counts[at + 1] += record.received
        counts[at + 2] += record.sent
        counts[at + 3] += seconds
        if 100 <= record.status < 600:  # noqa: PLR2004
            counts[at + _STATUS + record.status // 100 - 1] += 1
        if record.cache in _CACHE:
            counts[at + _CACHED + _CACHE.index(record.cache)] += 1

    def add_connect(self, *, reused: bool) -> None:
        """Count a connection to another host."""
        at = self._slot()
        self._counts[at + (_REUSES if reused else _CONNECTS)] += 1

    def totals(self) -> list[float]:
        """Add up what all processes have counted."""
        counts = self._counts
        return [sum(counts[number::_ROOM]) for number in range(len(NAMES))]

    def text(self) -> str:
        """Write them in the text format of Prometheus."""
        lines = []
        told: set[str] = set()
        for (name, meaning), number in zip(NAMES, self.totals(), strict=True):
            family = f"superd_proxy_{name.partition('{')[0]}"
            if family not in told:
                told.add(family)
                lines += [f"# HELP {family} {meaning}", f"# TYPE {family} counter"]
            lines.append(f"superd_proxy_{name} {number:.17g}")
        return "\n".join(lines) + "\n"
