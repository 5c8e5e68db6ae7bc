"""Move bytes over a joint of a role with --compress, where each end has said so.

    the stage after:   superd-pipe zstd LF
    the stage before:  one stream of zstd, and FIN

The rule of the file: nothing compressed is sent to whoever has not asked for it, and
nothing else is taken for data. A role without the flag would hand the compressed bytes
to its program; so the one that writes waits for the greeting of the one that reads. The
end of the stream is sent after the stage was judged, as FIN is: a proxy that makes FIN of
a reset does not make it whole.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline.failure import UNREACHABLE, Failure
from superd.handlers.pipeline.zstd import Packer, Unpacker, ZstdBroken
from superd.pipe.flow import Flow

if TYPE_CHECKING:
    import socket

GREETING: Final = b"superd-pipe zstd\n"
_PIECE: Final = 1 << 16


def offer(upstream: socket.socket) -> None:
    """Tell the stage before that we take what is compressed."""
    with suppress(OSError):  # every errno: who has gone is seen when it is read from
        upstream.send(GREETING)


def await_offer(downstream: socket.socket, name: str, wait: float) -> None:
    """Wait until the stage after has said that it takes what is compressed."""
    until = monotonic() + wait
    poller = select.poll()
    poller.register(downstream, select.POLLIN)
    said = b""
    while len(said) < len(GREETING):
        if not poller.poll(max(0.0, until - monotonic()) * 1000):
            raise Failure(
                UNREACHABLE,
                f"{name} has not said in {wait:g} s that it takes --compress; that is "
                "for both ends of a joint, and --wait gives more time",
            )
        try:
            more = downstream.recv(len(GREETING) - len(said))
        except OSError as error:
            raise Failure(UNREACHABLE, f"{name}: {error.strerror}") from None
        said += more
        if not more or not GREETING.startswith(said):
            raise Failure(
                UNREACHABLE,
                f"{name} does not take --compress; that is for both ends of a joint",
            )


class PackedFlow(Flow):
    """A flow that comes compressed, goes compressed, or both.

    `moved` counts the bytes as a program sees them, `packed` as they go out.
    """

    def __init__(self, source: int, target: int, *, comes: bool, level: int) -> None:
        super().__init__(source, target)
        self.packed = 0
        self._unpacker = Unpacker() if comes else None
        self._packer = Packer(level) if level else None
        self._has_ended = False

    def _move(self) -> None:
        """Write one piece, made of what is left or of what can be read."""
        if not self._rest and not self._has_next():
            return
        try:
            count = os.write(self.target, self._rest)
        except BlockingIOError:
            self._full = True
            return
        except OSError as error:
            self._failed(error, reading=False)
            return
        if self._packer is None:
            self.moved += count
        self._rest = self._rest[count:]
        more = self._unpacker is not None and self._unpacker.has_more
        # With more to come out of what is here, the source has nothing to say.
        self._full = bool(self._rest) or more or self._has_ended
        if self._has_ended and not self._rest:
            self.over = "end"

    def _has_next(self) -> bool:
        """Make the next piece; False where there is none now, or none any more."""
        data = b""
        if self._unpacker is None or not self._unpacker.has_more:
            try:
                data = os.read(self.source, _PIECE)
            except BlockingIOError:
                self._full = False
                return False
            except OSError as error:
                self._failed(error, reading=True)
                return False
            self._has_ended = not data
        try:
            piece = self._plain(data)
        except ZstdBroken as error:
            self.over, self.why = "cut", str(error)
            return False
        if self._packer is not None:
            self.moved += len(piece)
            piece = self._packer.pack(piece) if piece else b""
            self.packed += len(piece)
        if self._has_ended and not piece:
            self.over = "end"
        self._rest = memoryview(piece)
        self._full = self._full and bool(piece)
        return bool(piece)

    def seal(self) -> None:
        """Begin to send what says that the stream was whole; then it is over again.

        To be called when it is over by `end`, and only where the stage has ended well.
        """
        if self._packer is not None:
            last = self._packer.finish()
            self.packed += len(last)
            self.over, self._rest, self._full = "", memoryview(last), True

    def _plain(self, data: bytes) -> bytes:
        if self._unpacker is None:
            return data
        if self._has_ended and not self._unpacker.is_whole:
            if not self._unpacker.has_begun:
                raise ZstdBroken(
                    "nothing has come; the stage before needs --compress too"
                )
            raise ZstdBroken("the compressed stream has no end")
        return self._unpacker.unpack(data, _PIECE)
