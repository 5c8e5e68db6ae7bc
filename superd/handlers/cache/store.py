"""Store answers in a folder that any number of processes use at once.

The rule of the file: a record is replaced by rename(2) under the lock of its key, which is
held for microseconds and never across the network; a body is removed after the record that
named it. Whoever reads takes no lock: it sees one record or the other, and a body that is
gone by then is a miss. Damage of every kind is a miss as well, and is removed.

    FOLDER/version         the layout
    FOLDER/ledger          the count of bytes; its numbers are the locks
    FOLDER/claims          its numbers are the claims (claims.py)
    FOLDER/ab/HASH         the record of a key; HASH is the SHA-256 of the key
    FOLDER/ab/HASH.NAME    a body; NAME is random
    FOLDER/ab/HASH.new     a record that is being written

What a hit costs is one stat(2), if the shelf has it: 4 us; without it, an open and a read:
13 us. To store 1 KiB takes 90 us on tmpfs; on ext4 several times that where thousands of
files go and come in seconds, for it does not use an inode again for five.

A body over 64 KiB has no checksum: a disk that changes bits in it without an error is
believed, as it is by sendfile(2).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from superd.handlers.cache import keyfile
from superd.handlers.cache.drafts import Draft
from superd.handlers.cache.eviction import Sweeper
from superd.handlers.cache.folder import prepare
from superd.handlers.cache.keyfile import Entry, Variant, body_path, state_of
from superd.handlers.cache.ledger import rounded
from superd.handlers.cache.shelf import ROOM, Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

TOUCH_NS: Final = 600_000_000_000
"""For so long a use is not written down again: eviction is that exact."""
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say something about this process, and nothing about a file."""
_SHARE: Final = 8
"""One body is at most an eighth of the size: that much may come while a sweep runs."""


class Store:
    """A cache on the disk, and this process's shelf in front of it."""

    def __init__(
        self,
        folder: str,
        size: int,
        largest: int,
        *,
        shelf: int = ROOM,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open or make the folder. Raises SetupError."""
        self.folder = os.path.abspath(folder)
        self.ledger = prepare(self.folder, size)
        self.largest = min(largest, size // _SHARE)
        """Bytes of one body."""
        self._clock_ns = clock_ns
        self._shelf = Shelf(shelf)
        self._sweeper = Sweeper(self.folder, self.ledger)

    def variants(self, key: bytes) -> tuple[Variant, ...]:
        """Return what is stored under a key, the newest first; opens no body."""
        kept = self._shelf.find(key)
        if kept is None:
            return self._load(key)
        try:
            info = os.lstat(kept.path)
        except OSError:
            self._shelf.drop(key)
            return ()
        if state_of(info) != kept.state:
            return self._load(key)
        if self._clock_ns() - info.st_atime_ns > TOUCH_NS:
            with suppress(OSError):  # it may be gone, which the next look finds
                fd = os.open(kept.path, keyfile.READ)
                try:
                    self._touch(fd, os.fstat(fd))
                finally:
                    os.close(fd)
        return kept.variants

    def begin(self, key: bytes) -> Draft:
        """Begin a body; nothing is written before it is 64 KiB or kept."""
        return Draft(self, key, self.record_path(key))

    def renew(self, variant: Variant, meta: bytes) -> Variant | None:
        """Give a body new metadata (after a 304); None if it is no longer there."""
        if len(meta) > keyfile.LONGEST_META:
            return None

        def renewed(before: list[Variant]) -> list[Variant]:
            rest = [one for one in before if one.name != variant.name]
            same = [one for one in before if one.name == variant.name]
            return [one.with_meta(meta) for one in same] + rest

        try:
            after = self.change(self.record_path(variant.key), variant.key, renewed)
        except OSError:
            return None
        return after[0] if after and after[0].name == variant.name else None

    def remove(self, key: bytes) -> None:
        """Remove all variants of a key (RFC 9111 4.4)."""
        self._remove(key, lambda _: [])

    def remove_variant(self, variant: Variant) -> None:
        """Remove one variant."""
        self._remove(
            variant.key,
            lambda before: [one for one in before if one.name != variant.name],
        )

    def sweep(self, deadline: float | None = None) -> bool:
        """Make room, up to a deadline of the monotonic clock; True if all is done.

        Call it in a thread, or where nobody waits; again after False. It does nothing
        where another process does it already, or nothing is to be done.
        """
        return self._sweeper.sweep(deadline)

    def close(self) -> None:
        """Give up a sweep that was begun; what is stored stays."""
        self._sweeper.stop()

    @property
    def due(self) -> bool:
        """Whether sweep() should be called, as far as this process has seen."""
        return self._sweeper.is_due

    def record_path(self, key: bytes) -> str:
        """Return where the record of a key is."""
        digest = hashlib.sha256(key).hexdigest()
        return f"{self.folder}/{digest[:2]}/{digest}"

    def make_room(self, path: str) -> None:
        """Make the folder of a record."""
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o700)

    def open(self, variant: Variant) -> Entry | None:
        """Open a body for Variant.open()."""
        path = body_path(self.record_path(variant.key), variant.name)
        try:
            fd = os.open(path, keyfile.READ)
        except OSError as error:
            if error.errno not in _SCARCE:
                self.remove_variant(variant)
            return None
        entry = Entry(fd, variant.size, None)
        try:
            info = os.fstat(fd)
            whole = stat.S_ISREG(info.st_mode) and info.st_size == variant.size
            if whole and variant.size > keyfile.SMALL:
                return entry
            data = keyfile.read_all(fd, variant.size) if whole else None
        except OSError:  # EIO: a bad block
            data = None
        entry.close()
        if data is None or zlib.crc32(data) != variant.crc:
            self.remove_variant(variant)
            return None
        self._shelf.add_body(variant, data)
        return Entry(-1, variant.size, data)

    def change(
        self,
        path: str,
        key: bytes,
        make: Callable[[list[Variant]], list[Variant]],
    ) -> list[Variant]:
        """Replace the variants of a key by what `make` makes of them. Raises OSError."""
        self._shelf.drop(key)
        digest = os.path.basename(path)
        with self.ledger.key(digest) as fd:
            before, length = self._read(path, key)
            after = make(list(before))[: keyfile.MOST]
            while len(after) > 1 and keyfile.length_of(key, after) > keyfile.LARGEST:
                after.pop()
            if after == before:
                return after
            if after:
                self._write(path, key, after, length, fd)
            elif length:
                os.unlink(path)
                self.ledger.add(-rounded(length), fd)
            left = {one.name for one in after}
            for one in before:
                if one.name not in left and not one.inline:
                    self._remove_body(body_path(path, one.name), one.size, fd)
        return after

    def _write(
        self, path: str, key: bytes, after: list[Variant], length: int, fd: int
    ) -> None:
        data = keyfile.pack(key, after)
        more = rounded(len(data)) - rounded(length)
        if more > 0:
            self.ledger.add(more, fd)
        try:
            state = keyfile.write(path, data, self._clock_ns())
        except FileNotFoundError:
            self.make_room(path)
            state = keyfile.write(path, data, self._clock_ns())
        if more < 0:
            self.ledger.add(more, fd)
        self._shelf.keep(key, path, state, tuple(after))

    def _load(self, key: bytes) -> tuple[Variant, ...]:
        """Read the record of a key."""
        self._shelf.drop(key)
        path = self.record_path(key)
        try:
            fd = os.open(path, keyfile.READ)
        except FileNotFoundError:
            return ()
        except OSError as error:
            if error.errno not in _SCARCE:
                self.remove(key)
            return ()
        try:
            found = keyfile.read_open(fd)
            if found is not None:
                data, info = found
                variants = keyfile.unpack(data, key, self)
                if variants is not None:
                    kept = tuple(variants)
                    self._shelf.keep(key, path, state_of(info), kept)
                    self._touch(fd, info)
                    return kept
        except OSError:  # EIO: a bad block
            pass
        finally:
            os.close(fd)
        # No record, or another key's. Under the lock it is looked at once more.
        self._remove(key, lambda before: before)
        return ()

    def _read(self, path: str, key: bytes) -> tuple[list[Variant], int]:
        """Return what a record says, and its length; what is none is removed."""
        try:
            found = keyfile.read(path)
        except FileNotFoundError:
            return [], 0
        except OSError:
            found = None
        if found is not None:
            variants = keyfile.unpack(found[0], key, self)
            if variants is not None:
                return variants, len(found[0])
        with suppress(OSError):  # a folder stays, and is a miss
            os.unlink(path)
        return [], 0

    def _touch(self, fd: int, info: os.stat_result) -> None:
        """Write a use down, if the last one is long ago; mtime stays what it is."""
        now = self._clock_ns()
        if now - info.st_atime_ns > TOUCH_NS:
            with suppress(OSError):
                os.utime(fd, ns=(now, info.st_mtime_ns))

    def _remove(
        self, key: bytes, make: Callable[[list[Variant]], list[Variant]]
    ) -> None:
        """Remove some variants; if that cannot be done with care, the record goes."""
        path = self.record_path(key)
        try:
            self.change(path, key, make)
        except OSError:
            with suppress(OSError):
                os.unlink(path)

    def _remove_body(self, path: str, size: int, fd: int) -> None:
        with suppress(OSError):
            os.unlink(path)
            self.ledger.add(-rounded(size), fd)
