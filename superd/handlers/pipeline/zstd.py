"""Compress a stream by zstd (RFC 8878), and take it apart again in bounded memory.

Python has zstd from 3.14 on, as compression.zstd; backports.zstd is the same for those
before it. The command zstd(1) as a filter would be no replacement: it has no flush, and
what a slow producer says would wait in it until a block of 128 KiB is full.

The rule of the file: what comes in is a stranger's. Nobody decides by it how much memory
we take: output is asked for by the piece, and a window past 8 MiB, which is what RFC 8878
(3.1.1.1.2) asks of every decoder, is refused.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any, Final

from superd.handlers.pipeline.failure import UNREACHABLE, Failure

DEFAULT_LEVEL: Final = 3
HIGHEST_LEVEL: Final = 19
"""From 20 on the window is larger than what others must take (32 MiB and more)."""
MAGIC: Final = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG: Final = 23
_NAMES: Final = ("compression.zstd", "backports.zstd")


class ZstdBroken(Exception):  # noqa: N818  what the stream is
    """What came is no stream of zstd, or more than one; the text says why."""


@cache
def library() -> Any:
    """Load the library; Failure where this Python has none."""
    for name in _NAMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Failure(
        UNREACHABLE,
        f"{os.uname().nodename} has no zstd for --compress; Python 3.14 has it, for "
        "others install superd[zstd] there",
    )


class Packer:
    """Compresses a stream; what was given is on its way after each call."""

    def __init__(self, level: int) -> None:
        zstd = library()
        parameter = zstd.CompressionParameter
        self._stream = zstd.ZstdCompressor(
            options={
                parameter.compression_level: level,
                parameter.checksum_flag: 1,
            }
        )

    def pack(self, data: bytes) -> bytes:
        """Return all of these bytes, compressed."""
        packed: bytes = self._stream.compress(data, self._stream.FLUSH_BLOCK)
        return packed

    def finish(self) -> bytes:
        """Return the end of the stream, with the checksum of all of it."""
        packed: bytes = self._stream.flush(self._stream.FLUSH_FRAME)
        return packed


class Unpacker:
    """Takes a compressed stream apart."""

    def __init__(self) -> None:
        zstd = library()
        window = zstd.DecompressionParameter.window_log_max
        self._error = zstd.ZstdError
        self._stream = zstd.ZstdDecompressor(options={window: _WINDOW_LOG})
        self._head = b""

    @property
    def is_whole(self) -> bool:
        """Whether the stream has come to its end, and its checksum was right."""
        return bool(self._stream.eof)

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._head)

    @property
    def has_more(self) -> bool:
        """Whether something may come out without more going in."""
        return not (self._stream.needs_input or self._stream.eof)

    def unpack(self, data: bytes, room: int) -> bytes:
        """Return at most `room` bytes; the rest comes with the next call.

        Raises ZstdBroken for what is no such stream, and for anything after its end.
        """
        if self._stream.eof:
            if data:
                raise ZstdBroken("something came after the end")
            return b""
        if len(self._head) < len(MAGIC):
            # The library skips frames of other kinds (RFC 8878, 3.1.2): not here.
            self._head += data[: len(MAGIC) - len(self._head)]
            if not MAGIC.startswith(self._head):
                raise ZstdBroken("it does not come compressed")
        try:
            out: bytes = self._stream.decompress(data, room)
        except self._error as error:
            why = str(error).rpartition(": ")[2]
            raise ZstdBroken(f"no stream of zstd: {why}") from None
        if self._stream.eof and self._stream.unused_data:
            raise ZstdBroken("something came after the end")
        return out
