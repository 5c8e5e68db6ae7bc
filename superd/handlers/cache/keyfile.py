"""Write and read the record of a key: its variants, with the bodies that are small.

The rule of the file: a record is written once, under another name, and renamed; it never
changes. Whatever does not have the right checksum and the right key, to the byte, is no
record, and reading it raises nothing.

    superd/handlers/cache layout 1, all numbers little-endian:
    "sdc1", CRC-32 of all that follows, variants (16 bits), length of the key (32), key;
    then for each variant, the newest first: name (8 bytes), size of the body (64),
    CRC-32 of the body (32), length of the metadata (32), whether the body follows (8),
    metadata, and the body if it does.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

from superd.handlers.cache import locks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAGIC: Final = b"sdc1"
_HEAD: Final = struct.Struct("<4sIHI")
_CHECKED: Final = 8
"""Where begins what the checksum is of."""
_EACH: Final = struct.Struct("<8sQIIB")
MOST: Final = 64
"""Variants of one key; the oldest go."""
LARGEST: Final = 1 << 20
"""Bytes of one record; the oldest variants go. All of it is read for each request that the
shelf cannot serve: 64 variants with heads of 60 KiB took 150 ms."""
LONGEST_META: Final = 1 << 18
SMALL: Final = 1 << 16
"""A body up to here is read at once and checked."""
INLINE: Final = 1 << 14
"""A body up to here is in the record: one file less to write, open and remove."""
INLINE_IN_ALL: Final = 1 << 16
"""But not more than this in one record, which is rewritten for each variant."""

READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME | locks.FLAGS
"""A FIFO in place of a file does not block; atime is what the store says (LRU)."""


class State(NamedTuple):
    """What makes a record the very same; mtime is set to the nanosecond of its writing."""

    inode: int
    mtime_ns: int
    size: int


class Home(Protocol):
    """Where variants come from."""

    def open(self, variant: Variant) -> Entry | None:
        """Open the body."""


class Entry:
    """A body, to be read from a descriptor or as bytes; whoever opened it closes it."""

    __slots__ = ("data", "fd", "size")

    def __init__(self, fd: int, size: int, data: bytes | None) -> None:
        self.fd = fd
        """Open for reading at 0, or -1 where there is `data`."""
        self.size = size
        self.data = data

    def close(self) -> None:
        """Close the file, if there is one; again is nothing."""
        if self.fd != -1:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Variant:
    """One stored answer: the metadata, and where its body is."""

    __slots__ = (
        "crc",
        "data",
        "facts",
        "home",
        "inline",
        "key",
        "meta",
        "name",
        "size",
    )

    def __init__(
        self, key: bytes, name: bytes, size: int, crc: int, meta: bytes, home: Home
    ) -> None:
        self.key = key
        self.name = name
        """Random: no two bodies have the same, nor one body after another."""
        self.size = size
        self.crc = crc
        self.meta = meta
        self.home = home
        self.inline = False
        self.data: bytes | None = None
        """The body, if it is in memory."""
        self.facts: Any = None
        """The caller's: what it made of `meta`. Lives as long as the shelf keeps it."""

    def open(self) -> Entry | None:
        """Open the body; None if it is gone or damaged, which is a miss."""
        if self.data is not None:
            return Entry(-1, self.size, self.data)
        return self.home.open(self)

    def with_meta(self, meta: bytes) -> Variant:
        """Return the same body with other metadata."""
        new = Variant(self.key, self.name, self.size, self.crc, meta, self.home)
        new.inline, new.data = self.inline, self.data
        return new


def body_path(record: str, name: bytes) -> str:
    """Return where the body of a variant is that is not in its record."""
    return f"{record}.{name.hex()}"


def pack(key: bytes, variants: Sequence[Variant]) -> bytes:
    """Spell a record."""
    parts = [key]
    for one in variants:
        body = one.data if one.inline else None
        parts += (
            _EACH.pack(one.name, one.size, one.crc, len(one.meta), body is not None),
            one.meta,
            body or b"",
        )
    text = b"".join(parts)
    head = _HEAD.pack(MAGIC, 0, len(variants), len(key))
    crc = zlib.crc32(text, zlib.crc32(head[_CHECKED:]))
    return b"".join((MAGIC, crc.to_bytes(4, "little"), head[_CHECKED:], text))


def length_of(key: bytes, variants: Iterable[Variant]) -> int:
    """Return how long the record of these would be."""
    return (
        _HEAD.size
        + len(key)
        + sum(_EACH.size + len(v.meta) + v.size * v.inline for v in variants)
    )


def unpack(data: bytes, key: bytes | None, home: Home) -> list[Variant] | None:
    """Return the variants of a record; None if it is none, or none of this key."""
    if len(data) < _HEAD.size:
        return None
    magic, crc, count, length = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    if magic != MAGIC or crc != zlib.crc32(memoryview(data)[_CHECKED:]):
        return None
    own = data[_HEAD.size : at]
    if key is not None and own != key:
        return None
    variants = []
    for _ in range(count):
        if len(data) < at + _EACH.size:
            return None
        name, size, crc, length, inline = _EACH.unpack_from(data, at)
        at += _EACH.size
        variant = Variant(own, name, size, crc, data[at : at + length], home)
        at += length
        if inline:
            variant.inline, variant.data = True, data[at : at + size]
            at += size
        variants.append(variant)
    return variants if at == len(data) else None


def read(path: str) -> tuple[bytes, os.stat_result] | None:
    """Read a file that should be a record; None if there is nothing to be read.

    Raises OSError, FileNotFoundError among them.
    """
    fd = os.open(path, READ)
    try:
        return read_open(fd)
    finally:
        os.close(fd)


def read_open(fd: int) -> tuple[bytes, os.stat_result] | None:
    """Read it where it is open."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST:
        return None
    data = read_all(fd, info.st_size)
    return None if data is None else (data, info)


def read_all(fd: int, size: int) -> bytes | None:
    """Read that many bytes from the beginning; None if there are less."""
    data = os.pread(fd, size, 0)
    while len(data) < size:
        more = os.pread(fd, size - len(data), len(data))
        if not more:
            return None
        data += more
    return data


def write(path: str, data: bytes, now_ns: int) -> State:
    """Put a record in its place, at once for all who look. Raises OSError.

    The caller has the lock of the key, so the other name is nobody else's: what lies
    there is of a process that was killed.
    """
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | locks.FLAGS, locks.MODE)
    try:
        write_all(fd, data)
        # The kernel's own times are of its last tick, which two writers may share, before
        # Linux 6.13; and with the second of them the first one's inode may be back.
        os.utime(fd, ns=(now_ns, now_ns))
        state = state_of(os.fstat(fd))
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise
    finally:
        os.close(fd)
    return state


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of it, in however many calls."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def state_of(info: os.stat_result) -> State:
    """Take it from a stat."""
    return State(info.st_ino, info.st_mtime_ns, info.st_size)
