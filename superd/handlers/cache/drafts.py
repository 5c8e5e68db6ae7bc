"""Write a body that nobody sees before it is complete and its record names it.

The rule of the file: whatever goes wrong with the disk ends the draft and nothing else.
Whoever writes an answer to a client writes it here as well, and does not look.

A body has its final name from the beginning, and its file is locked for as long as it is
in no record: the lock dies with its process, so a sweep can tell what a killed process
left from what is being written. No fsync(2): a process that dies takes nothing from the
kernel, and after a power cut a body is shorter than its record says (ext4, XFS and btrfs
write a length after its data) or does not have its checksum (up to 64 KiB): a miss.
"""

from __future__ import annotations

import errno
import os
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from superd.handlers.cache import keyfile, locks
from superd.handlers.cache.keyfile import Variant, body_path
from superd.handlers.cache.ledger import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.handlers.cache.store import Store

    Replaces = Variant | Callable[[Variant], bool] | None

WRITING: Final = 0
"""The number of a body's file that is locked while it is written."""


class Draft:
    """A body on its way into the store; end it by keep() or drop()."""

    __slots__ = (
        *("_buffer", "_fd", "_key", "_name", "_path", "_record", "_store", "_counted"),
        *("alive", "size", "why"),
    )

    def __init__(self, store: Store, key: bytes, record: str) -> None:
        self.alive = True
        """Whether it can still be kept."""
        self.size = 0
        self.why = ""
        """Why it died: `too large`, or the name of an errno (ENOSPC: full)."""
        self._store = store
        self._key = key
        self._record = record
        self._name = os.urandom(8)
        self._path = body_path(record, self._name)
        self._buffer = bytearray()
        self._fd = -1
        self._counted = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add to the body; nothing where the draft is dead."""
        if not self.alive:
            return
        self.size += len(data)
        if self.size > self._store.largest:
            self._die("too large")
            return
        self._buffer += data
        if len(self._buffer) > keyfile.SMALL:
            try:
                self._flush()
            except OSError as error:
                self._die_of(error)

    def keep(self, meta: bytes, replaces: Replaces = None) -> Variant | None:
        """Make it visible to all processes, at once; None if that cannot be.

        `replaces` is the variant that this one is in place of, or says it of each.
        """
        if not self.alive:
            return None
        if len(meta) > keyfile.LONGEST_META:
            self._die("too large")
            return None
        is_replaced = _judge_of(replaces)

        def added(before: list[Variant]) -> list[Variant]:
            rest = [one for one in before if not is_replaced(one)]
            return [self._variant(meta, rest), *rest]

        try:
            after = self._store.change(self._record, self._key, added)
        except OSError as error:
            self._die_of(error)
            return None
        # Only now: in no record and not locked would be a dead one's.
        self._close()
        self.alive = False
        return after[0] if after else None

    def drop(self) -> None:
        """Forget it; after keep() this is nothing."""
        if self.alive:
            self._die("dropped")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _variant(self, meta: bytes, others: list[Variant]) -> Variant:
        """Complete the body, in the record or in its file."""
        small = self.size <= keyfile.SMALL
        crc = zlib.crc32(self._buffer) if small else 0
        new = Variant(self._key, self._name, self.size, crc, meta, self._store)
        inline = sum(one.size for one in others if one.inline) + self.size
        new.inline = self.size <= keyfile.INLINE and inline <= keyfile.INLINE_IN_ALL
        if new.inline:
            new.data = bytes(self._buffer)
            return new
        self._flush()
        return new

    def _flush(self) -> None:
        if self._fd == -1:
            self._fd = self._create()
        # Counted before it is written: see the ledger. After it the file is all there is.
        whole = rounded(self.size)
        self._store.ledger.add(whole - self._counted)
        self._counted = whole
        keyfile.write_all(self._fd, self._buffer)
        self._buffer.clear()

    def _create(self) -> int:
        """Create the body's file and lock it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | locks.FLAGS
        try:
            fd = os.open(self._path, flags, locks.MODE)
        except FileNotFoundError:
            self._store.make_room(self._record)
            fd = os.open(self._path, flags, locks.MODE)
        self._own(fd)
        return fd

    def _own(self, fd: int) -> None:
        """Lock the file, before which a sweep may take it for a dead one's."""
        if not locks.take(fd, WRITING) or not os.fstat(fd).st_nlink:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "swept", self._path)

    def _die_of(self, error: OSError) -> None:
        self._die(errno.errorcode.get(error.errno or 0, "unknown"))

    def _die(self, why: str) -> None:
        self.alive = False
        self.why = why
        self._buffer.clear()
        if self._fd == -1:
            return
        with suppress(OSError):  # what stays is swept
            os.unlink(self._path)
            self._store.ledger.add(-self._counted)
        self._close()

    def _close(self) -> None:
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1


def _judge_of(replaces: Replaces) -> Callable[[Variant], bool]:
    if replaces is None:
        return lambda _: False
    if isinstance(replaces, Variant):
        name = replaces.name
        return lambda one: one.name == name
    return replaces
