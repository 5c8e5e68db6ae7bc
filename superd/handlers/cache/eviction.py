"""Make room: count what is there, and remove what was used least recently.

The rule of the file: one process at a time sweeps, and it believes the disk and nothing
else. It goes through the folder once to count, and a second time to remove if there is too
much; in between it keeps bytes by minute of last use and no names, so that a million
entries need no more memory than ten. It goes on in steps, of one of 256 rooms each, as
long as its caller lets it: in a thread beside an event loop, or after a connection.

The cache is never above its size by more than an eighth (ledger.OVERSHOOT): what would go
beyond is not stored. Neither the folders themselves are counted, nor what a process has
counted in the moment before the walk and writes in the moment after it: 64 KiB each.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.cache import keyfile, locks
from superd.handlers.cache.drafts import WRITING
from superd.handlers.cache.folder import ROOMS
from superd.handlers.cache.ledger import SWEEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.handlers.cache.ledger import Ledger

_OURS: Final = re.compile(r"([0-9a-f]{64})(?:\.(new|[0-9a-f]{16}))?")
_MINUTE: Final = 60
REST: Final = 30.0
"""Seconds before the next sweep where one has not helped: what is written stays."""
_SECTOR: Final = 512
"""What st_blocks counts in, whatever the file system's blocks are (stat(2))."""


class Group(NamedTuple):
    """What a room has of one key."""

    used: int
    """The minute of its last use; -1 where there is no record."""
    size: int
    bodies: tuple[tuple[str, int], ...]
    """Names of the bodies that are in files, and their bytes."""


class Sweeper:
    """The sweep of this process, if there is one."""

    def __init__(self, folder: str, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger
        self._steps: Iterator[None] | None = None
        self._turn = threading.Lock()
        self._rest = 0.0
        self.removed = 0
        """Keys that this process has evicted."""

    @property
    def is_due(self) -> bool:
        """Whether a sweep was begun and not ended, or there is too much."""
        if self._steps is not None:
            return True
        return self._ledger.used > self._ledger.size and time.monotonic() >= self._rest

    def sweep(self, deadline: float | None) -> bool:
        """Go on until all is done (True), or the deadline has passed (False)."""
        if not self._turn.acquire(blocking=False):
            return True  # for this thread: another one is at it
        try:
            if self._steps is None:
                self._steps = self._sweep(os.getpid())
            for _ in self._steps:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
        except OSError:
            # Whatever it was, the count is what it was, and the next sweep finds it too.
            self._rest = time.monotonic() + REST
        finally:
            self._turn.release()
        self._steps = None
        return True

    def stop(self) -> None:
        """Give up a sweep that was begun."""
        self._steps = None

    def _sweep(self, pid: int) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | locks.FLAGS
        fd = os.open(self._ledger.path, flags, locks.MODE)
        try:
            # Twice: another process may have ended its sweep in between.
            if self._is_over() and locks.take(fd, SWEEP) and self._is_over():
                before = self.removed
                yield from self._walk(pid)
                # What has come meanwhile is for the next one; to find nothing is not.
                if self._is_over() and self.removed == before:
                    self._rest = time.monotonic() + REST
        finally:
            # A process forked meanwhile ends with a copy of this, and not its lock.
            if os.getpid() == pid:
                locks.release(fd, SWEEP)
            os.close(fd)

    def _is_over(self) -> bool:
        return self._ledger.look() > self._ledger.size

    def _walk(self, pid: int) -> Iterator[None]:
        since = self._ledger.added()
        ages: dict[int, int] = {}
        for room in ROOMS:
            for digest, group in self._groups(room).items():
                size = group.size + self._bodies_of(room, digest, group)
                ages[group.used] = ages.get(group.used, 0) + size
            yield
            if os.getpid() != pid:
                return
        total = sum(ages.values())
        ages.pop(-1, None)
        plan = _Plan(ages, total - self._ledger.size // 10 * 9)
        for room in ROOMS if plan.excess > 0 else ():
            for digest, group in self._groups(room).items():
                if plan.is_due(group.used):
                    freed = self._evict(room, digest, group, plan)
                    total -= freed
            yield
            if os.getpid() != pid:
                return
        self._ledger.replace(total, since)

    def _groups(self, room: str) -> dict[str, Group]:
        """List a room by key; what a killed process left of a record is removed."""
        groups: dict[str, Group] = {}
        try:
            entries = list(os.scandir(os.path.join(self._folder, room)))
        except OSError:
            return groups
        for entry in entries:
            match = _OURS.fullmatch(entry.name)
            if match is None or entry.name[:2] != room:
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISREG(info.st_mode):
                continue
            digest, kind = match.groups()
            size = info.st_blocks * _SECTOR
            used, total, bodies = groups.get(digest, Group(-1, 0, ()))
            if kind is None:
                used, total = _minute_of(info), total + size
            elif kind == "new":
                self._remove_new(entry.path, digest)
            else:
                bodies = (*bodies, (kind, size))
            groups[digest] = Group(used, total, bodies)
        return groups

    def _remove_new(self, path: str, digest: str) -> None:
        """Remove a record that is not being written: whoever does has the lock."""
        with suppress(OSError), self._ledger.key(digest):
            os.unlink(path)

    def _bodies_of(self, room: str, digest: str, group: Group) -> int:
        """Return the bytes of bodies, of which those that a killed process left go."""
        if not group.bodies:
            return 0
        record = os.path.join(self._folder, room, digest)
        named = _named(record)
        total = 0
        for kind, size in group.bodies:
            name = bytes.fromhex(kind)
            if named is None or name in named or not _remove_dead(record, name):
                total += size
        return total

    def _evict(self, room: str, digest: str, group: Group, plan: _Plan) -> int:
        """Remove a key, unless it was used meanwhile; returns the bytes."""
        record = os.path.join(self._folder, room, digest)
        freed = 0
        with suppress(OSError), self._ledger.key(digest) as fd:
            info = os.lstat(record)
            if _minute_of(info) > plan.cut:
                return 0
            named = _named(record) or frozenset()
            os.unlink(record)
            freed = info.st_blocks * _SECTOR
            self.removed += 1
            for kind, size in group.bodies:
                name = bytes.fromhex(kind)
                if name in named:
                    with suppress(FileNotFoundError):
                        os.unlink(keyfile.body_path(record, name))
                    freed += size
            plan.took(group.used, freed)
            # At once: others are waiting for the room.
            self._ledger.add(-freed, fd)
        return freed


class _Plan:
    """Which minutes of last use are to go, given the bytes of each."""

    def __init__(self, ages: dict[int, int], excess: int) -> None:
        self.excess = excess
        """Bytes that are too many."""
        self.cut = -1
        """The last minute of which something goes."""
        self._left = excess
        """Bytes that are to go of that minute."""
        for minute in sorted(ages) if excess > 0 else ():
            self.cut = minute
            if ages[minute] >= self._left:
                return
            self._left -= ages[minute]
        # All of it is not enough, so all of it goes.
        self.cut += 1

    def is_due(self, minute: int) -> bool:
        """Tell whether a key of this last use goes."""
        return -1 < minute < self.cut or (minute == self.cut != -1 and self._left > 0)

    def took(self, minute: int, freed: int) -> None:
        """Say that one went."""
        if minute == self.cut:
            self._left -= freed


def _minute_of(info: os.stat_result) -> int:
    return max(int(info.st_atime) // _MINUTE, 0)


class _Nowhere:
    """A home for variants that nobody opens."""

    def open(self, _: keyfile.Variant) -> None:
        """Open nothing."""


_NOWHERE: Final = _Nowhere()


def _named(record: str) -> frozenset[bytes] | None:
    """Return the bodies that a record names; None if it cannot be read just now."""
    try:
        found = keyfile.read(record)
    except FileNotFoundError:
        return frozenset()
    except OSError:
        return None
    variants = keyfile.unpack(found[0], None, _NOWHERE) if found else None
    return frozenset(one.name for one in variants or () if not one.inline)


def _remove_dead(record: str, name: bytes) -> bool:
    """Remove a body that no record names and nobody writes; False if it stays."""
    path = keyfile.body_path(record, name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | locks.FLAGS)
    except OSError:
        return False
    try:
        if not locks.take(fd, WRITING):
            return False
        # Its writer holds the lock until the record is there: so now it is, or never.
        named = _named(record)
        if named is None or name in named:
            return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
