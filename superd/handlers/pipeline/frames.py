"""Cut a stream into frames, and put it together again, or say that it is not whole.

    kind: 1 byte | length: 4 bytes | checksum: 4 bytes | payload

The rule of the file: what was not sent so never comes out. The checksum is the CRC-32 of
kind, length and payload, begun with the checksum of the frame before: a frame that is
lost, doubled, moved or changed breaks all that follow. A stream is whole only when its
END frame has come, with the number of its bytes; the end of the connection is none.

CRC-32 finds what cables, memory and bugs do. Against people, control messages are sealed
(auth.py); data between hosts is what anybody on the way may read, as with any pipe, where
it does not go by TLS (tls.py).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline.zstd import ZstdBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.handlers.pipeline.zstd import Unpacker

DATA: Final = 1
END: Final = 2
ABORT: Final = 3
STOP: Final = 4
MESSAGE: Final = 5
PACKED: Final = 6
"""Data of a joint that is compressed: never more than CHUNK bytes of it in one frame."""
_KINDS: Final = frozenset({DATA, END, ABORT, STOP, MESSAGE, PACKED})

_HEAD: Final = struct.Struct(">BII")
_SUM: Final = struct.Struct(">BI")
_TOTAL: Final = struct.Struct(">Q")
LONGEST: Final = 1 << 18
"""Bytes of a payload; a length that is longer is garbage, and nothing to wait for."""
CHUNK: Final = 1 << 16
"""Bytes of data in one frame: what a pipe takes at once, and a cache holds."""


class FrameError(Exception):
    """What came is no stream of frames; the text says why."""


class Writer:
    """Makes frames; `seed` is what both ends know of each other."""

    def __init__(self, seed: int = 0) -> None:
        self._sum = seed

    def head(self, kind: int, payload: bytes | memoryview) -> bytes:
        """Return what goes before the payload."""
        self._sum = _checksum(kind, payload, self._sum)
        return _HEAD.pack(kind, len(payload), self._sum)

    def frame(self, kind: int, payload: bytes = b"") -> bytes:
        """Return a whole frame."""
        return self.head(kind, payload) + payload

    def end(self, total: int) -> bytes:
        """Return the frame that says: these were all."""
        return self.frame(END, _TOTAL.pack(total))


class Reader:
    """Reads frames from bytes that come in any pieces."""

    def __init__(self, seed: int = 0) -> None:
        self._sum = seed
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Give every frame that is complete now; raises FrameError, and then always."""
        self._buffer += data
        place = 0
        try:
            while len(self._buffer) - place >= _HEAD.size:
                kind, length, checksum = _HEAD.unpack_from(self._buffer, place)
                if kind not in _KINDS or length > LONGEST:
                    raise FrameError(f"no frame: kind {kind}, {length} bytes")
                end = place + _HEAD.size + length
                if end > len(self._buffer):
                    return
                with memoryview(self._buffer) as view:
                    payload = bytes(view[place + _HEAD.size : end])
                if _checksum(kind, payload, self._sum) != checksum:
                    raise FrameError("a frame was changed on its way, or is missing")
                self._sum = checksum
                place = end
                yield kind, payload
        finally:
            del self._buffer[:place]


class Intake:
    """The receiving end of a stream of data; with an unpacker it comes compressed."""

    def __init__(self, seed: int = 0, unpacker: Unpacker | None = None) -> None:
        self._reader = Reader(seed)
        self._unpacker = unpacker
        self._kind = DATA if unpacker is None else PACKED
        self.total = 0
        self.is_whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the data in these bytes; FrameError where the stream is cut or wrong.

        One part at a time: compressed, a few bytes may be thousands of parts.
        """
        for kind, payload in self._reader.feed(data):
            if self.is_whole:
                raise FrameError("something came after the end")
            if kind == self._kind:
                part = self._unpack(payload)
                self.total += len(part)
                yield part
            elif kind == END:
                if payload != _TOTAL.pack(self.total):
                    raise FrameError("the stream has not as many bytes as were sent")
                if self._unpacker is not None and not self._unpacker.is_whole:
                    raise FrameError("the compressed stream has no end")
                self.is_whole = True
            elif kind == ABORT:
                raise FrameError(payload.decode("utf-8", "backslashreplace"))
            else:
                raise FrameError(f"kind {kind} has no place in this stream")

    def _unpack(self, payload: bytes) -> bytes:
        if self._unpacker is None:
            return payload
        try:
            part = self._unpacker.unpack(payload, CHUNK + 1)
        except ZstdBroken as error:
            raise FrameError(str(error)) from None
        if len(part) > CHUNK:
            raise FrameError(f"a frame with more than {CHUNK} bytes in it")
        return part


def _checksum(kind: int, payload: bytes | memoryview, before: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_SUM.pack(kind, len(payload)), before))
