"""Name what `async def serve(reader, writer, options)` is given, for its annotations.

Only type checkers load this file. The names and meanings are those of asyncio's
StreamReader and StreamWriter; what is more than theirs is said where it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class Reader(Protocol):
    """The peer's bytes. A peer that is gone is a ConnectionError, from every method."""

    async def read(
        self, n: int = -1, deadline: float | None = None, *, idle: bool = False
    ) -> bytes:
        """Return what is there, at most `n` bytes, or wait for it; empty at the end.

        More than asyncio's: TimeoutError when nothing has come at the `deadline`, a
        moment of time.monotonic(). `idle` says that the peer has had its answer and may
        ask again or not: when the worker is to end, such a wait ends in the same way
        after a second of it.
        """

    def is_retiring(self) -> bool:
        """Tell whether the worker is to end: this answer should be the last.

        Not in asyncio.
        """

    def read_nowait(self, n: int) -> bytes | None:
        """Return what read() would without waiting; None where it would wait.

        Not in asyncio. read() is to be called then, at once.
        """

    async def readline(self) -> bytes:
        """Return a line with its end; ValueError for one of more than 64 KiB."""

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return everything up to the separator, with it."""

    async def readexactly(self, n: int) -> bytes:
        """Return `n` bytes; asyncio.IncompleteReadError where the end comes before."""

    def at_eof(self) -> bool:
        """Tell whether the end was read."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Writer(Protocol):
    """Bytes for the peer. What is written and not drained is sent after serve()."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send what fits now and keep the rest."""

    def writelines(self, data: Iterable[bytes]) -> None:
        """Write several pieces."""

    async def drain(self, deadline: float | None = None) -> None:
        """Wait while more than 64 KiB are unsent; ConnectionError for a peer gone.

        More than asyncio's: TimeoutError when it is still so at the `deadline`.
        """

    def is_drained(self) -> bool:
        """Tell whether drain() would come back at once and without an error.

        Not in asyncio.
        """

    async def sendfile(
        self, fd: int, offset: int, count: int, deadline: float | None = None
    ) -> int:
        """Send a piece of a file; returns how much of it there was. Not in asyncio."""

    def write_eof(self) -> None:
        """Let the peer see the end of what we say; reading goes on."""

    def close(self) -> None:
        """Send what is written, then end the connection."""

    def is_closing(self) -> bool:
        """Tell whether close() was called."""

    async def wait_closed(self) -> None:
        """Wait until close() is done."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername`, `sockname`, `socket`, or, not in asyncio, `environment`.

        That is the dict of the variables that a process would have got.
        """
