"""Keep the variants of hot keys, and their small bodies, in the memory of a process.

The rule of the file: nothing here knows whether it still holds. Whoever takes something
off the shelf asks stat(2) of the record first: another process may have replaced, renewed
or removed it. What is used stays; what was used least recently goes for want of room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from superd.handlers.cache.keyfile import State, Variant

ROOM: Final = 1 << 24
"""Bytes of all that is kept; a process has one shelf for all its connections."""
LARGEST: Final = 1 << 16
"""Bytes of one key, metadata and bodies. A larger body goes out by sendfile anyway."""
_EACH: Final = 1024
"""What Python's objects of a variant take, and what the caller makes of its metadata."""


class Kept:
    """The variants of one key, and the state of the record that they were read from."""

    __slots__ = ("path", "state", "variants", "weight")

    def __init__(
        self, path: str, state: State, variants: tuple[Variant, ...], weight: int
    ) -> None:
        self.path = path
        self.state = state
        self.variants = variants
        self.weight = weight


class Shelf:
    """What is kept, by key."""

    def __init__(self, room: int = ROOM) -> None:
        """Take the bytes that there is room for; with none, nothing is kept."""
        self._room = self._free = room
        self._kept: dict[bytes, Kept] = {}

    def find(self, key: bytes) -> Kept | None:
        """Return what is kept, which then is what was used last."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._kept[key] = kept
        return kept

    def keep(
        self, key: bytes, path: str, state: State, variants: tuple[Variant, ...]
    ) -> None:
        """Keep what a record said, if it is small enough."""
        self.drop(key)
        weight = sum(_EACH + len(one.meta) + len(one.data or b"") for one in variants)
        weight += len(key)
        # A file system whose clock has whole seconds cannot tell two records apart.
        if weight <= LARGEST + _EACH and state.mtime_ns % 1_000_000_000:
            self._kept[key] = Kept(path, state, variants, weight)
            self._take(key, weight)

    def add_body(self, variant: Variant, data: bytes) -> None:
        """Keep a body that was read, if its variant is here and there is room."""
        kept = self._kept.get(variant.key)
        if (
            kept is not None
            and variant.data is None
            and any(one is variant for one in kept.variants)
            and kept.weight + len(data) <= LARGEST + _EACH
        ):
            variant.data = data
            kept.weight += len(data)
            self._take(variant.key, len(data))

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._free += kept.weight

    def _take(self, key: bytes, amount: int) -> None:
        """Make room, and if need be of what has just come."""
        self._free -= amount
        while self._free < 0:
            oldest = next(iter(self._kept))
            if oldest == key and len(self._kept) > 1:
                self._kept[key] = self._kept.pop(key)
                continue
            self.drop(oldest)
