"""Tell the time as a 32-bit number of seconds since 1900 (RFC 868)."""

from __future__ import annotations

import sys
import time

from superd.handlers import exits, stdio
from superd.handlers.run import run

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {}

SECONDS_1900_TO_1970: Final = 2208988800
"""RFC 868: 00:00 1 Jan 1970 GMT is 2,208,988,800."""


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("time", OPTIONS, _tell, argv)


async def serve(
    reader: Reader,  # noqa: ARG001
    writer: Writer,
    options: Mapping[str, object],  # noqa: ARG001
) -> int:
    """Serve the connection in an event loop."""
    writer.write(number_of(time.time()))
    return exits.OK


def datagram(
    data: bytes,  # noqa: ARG001
    peer: tuple[str, int],  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> bytes | None:
    """Answer a datagram, whatever is in it, with the number."""
    return number_of(time.time())


def number_of(now: float) -> bytes:
    """Write a moment as the four bytes of the service, high byte first.

    The 32 bits are full on 2036-02-07; then the count starts again at 0.
    """
    return ((int(now) + SECONDS_1900_TO_1970) % 2**32).to_bytes(4, "big")


def _tell(_options: Mapping[str, object]) -> int:
    stdio.write(number_of(time.time()))
    stdio.drop_input()
    return exits.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
