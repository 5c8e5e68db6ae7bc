"""Swallow everything, answer nothing (RFC 863)."""

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
    return run("discard", OPTIONS, _discard, argv)


async def serve(
    reader: Reader,
    writer: Writer,  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> int:
    """Serve the connection in an event loop."""
    while await reader.read(stdio.CHUNK):
        pass
    return exits.OK


def datagram(
    data: bytes,  # noqa: ARG001
    peer: tuple[str, int],  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> bytes | None:
    """Swallow a datagram."""
    return None


def _discard(_options: Mapping[str, object]) -> int:
    while stdio.read():
        pass
    return exits.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
