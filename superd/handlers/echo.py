"""Send everything back (RFC 862).

The end of the peer's sending is not the end of its listening: what it sent before a
half-close still comes back.
"""

from __future__ import annotations

import sys

from superd.handlers import exits, stdio
from superd.handlers.run import run

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping

    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {}


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("echo", OPTIONS, _echo, argv)


async def serve(
    reader: Reader,
    writer: Writer,
    options: Mapping[str, object],  # noqa: ARG001
) -> int:
    """Serve the connection in an event loop."""
    while data := await reader.read(stdio.CHUNK):
        writer.write(data)
        await writer.drain()
    return exits.OK


def datagram(
    data: bytes,
    peer: tuple[str, int],  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> bytes | None:
    """Answer a datagram with itself."""
    return data


def _echo(_options: Mapping[str, object]) -> int:
    # 64 KiB a time: with 256 KiB malloc maps and unmaps memory for each read, which
    # takes twice the time; a buffer that is used again saves nothing at this size.
    while data := stdio.read():
        stdio.write(data)
    return exits.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
