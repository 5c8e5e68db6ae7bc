"""Count requests, bytes and what the cache was good for, over all processes of a service.

The rule of the file: no lock, and no count is lost but by two processes whose numbers
differ by a multiple of 256 and which count within the same microsecond. The page of
memory is made before the processes are forked, and is theirs together.
"""

from __future__ import annotations

import mmap
import os
import struct
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
_SLOT: Final = struct.Struct(f"={len(NAMES)}d")
"""Doubles: exact for whole numbers up to 2**53, and one kind for all."""
_ROOM: Final = 256
"""Bytes between two slots: no two share a line of a processor's cache."""


class Counters:
    """The counts of a service."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SLOTS * _ROOM)

    def add(self, record: Record, seconds: float) -> None:
        """Count a request that is over."""
        counts = self._counts()
        counts[0] += 1
        counts[1] += record.received
        counts[2] += record.sent
        counts[3] += seconds
        if 100 <= record.status < 600:  # noqa: PLR2004
            counts[_STATUS + record.status // 100 - 1] += 1
        if record.cache in _CACHE:
            counts[_CACHED + _CACHE.index(record.cache)] += 1
        self._put(counts)

    def add_connect(self, *, reused: bool) -> None:
        """Count a connection to another host."""
        counts = self._counts()
        counts[_REUSES if reused else _CONNECTS] += 1
        self._put(counts)

    def _counts(self) -> list[float]:
        return list(_SLOT.unpack_from(self._page, os.getpid() % _SLOTS * _ROOM))

    def _put(self, counts: list[float]) -> None:
        _SLOT.pack_into(self._page, os.getpid() % _SLOTS * _ROOM, *counts)

    def totals(self) -> list[float]:
        """Add up what all processes have counted."""
        slots = [
            _SLOT.unpack_from(self._page, number * _ROOM) for number in range(_SLOTS)
        ]
        return [sum(column) for column in zip(*slots, strict=True)]

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
