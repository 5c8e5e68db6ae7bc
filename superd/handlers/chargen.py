"""Send the rotating pattern of characters for ever (RFC 864).

The rule of the file: what the peer sends is read and thrown away while the pattern is
written. A peer that sends first and reads later would otherwise fill both directions
and wait for ever, and so would we.
"""

from __future__ import annotations

import sys
from select import POLLIN, POLLOUT, poll

from superd.handlers import stdio
from superd.handlers.run import run
from superd.handlers.wire import Wire

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, NoReturn

    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {}

PRINTING: Final = bytes(range(32, 127))
"""The 95 printing characters of ASCII, space first."""
WIDTH: Final = 72
"""Characters of a line (RFC 864, "one popular pattern")."""


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("chargen", OPTIONS, _generate, argv)


async def serve(
    reader: Reader,
    writer: Writer,
    options: Mapping[str, object],  # noqa: ARG001
) -> NoReturn:
    """Serve the connection in an event loop; its end is a peer that is gone."""
    # Here, where whoever calls has it loaded: alone it takes 50 ms.
    import asyncio  # noqa: PLC0415

    swallowing = asyncio.ensure_future(_swallow(reader))
    try:
        while True:
            writer.write(_TURN)
            await writer.drain()
    finally:
        # Waited for: whoever cancels us closes the socket next.
        swallowing.cancel()
        await asyncio.wait([swallowing])


def datagram(
    data: bytes,  # noqa: ARG001
    peer: tuple[str, int],  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> bytes | None:
    """Answer a datagram with the first line, 74 bytes.

    RFC 864 allows 512 and wants no state; the shortest that is still a line makes the
    poorest weapon for somebody who forges the address of his victim.
    """
    return line_of(0)


def line_of(number: int) -> bytes:
    """Return line `number` of the pattern: it starts at character `number` mod 95."""
    start = number % len(PRINTING)
    return (PRINTING * 2)[start : start + WIDTH] + b"\r\n"


_TURN: Final = b"".join(map(line_of, range(len(PRINTING))))
"""The pattern repeats after 95 lines: one turn of it is all there is to send."""


async def _swallow(reader: Reader) -> None:
    try:
        while await reader.read(stdio.CHUNK):
            pass
    except OSError:
        return  # whatever it is, drain() raises it as well


def _generate(_options: Mapping[str, object]) -> int:
    turn = memoryview(_TURN)
    rest = turn
    poller = poll()
    poller.register(0, POLLIN)
    poller.register(1, POLLOUT)
    with Wire() as wire:
        while True:
            for fd, _events in poller.poll():
                if fd == 1:
                    rest = rest[wire.write_some(rest) :] or turn
                elif not stdio.read():
                    # A peer that sends no more may still read: RFC 864 goes on until
                    # the user "terminates", and then the write fails.
                    poller.unregister(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
