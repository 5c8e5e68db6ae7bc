"""Tell date and time as one line for people (RFC 867).

RFC 867 leaves the form open; this is BSD's, the 24 characters of ctime(3), which
clients in the field parse. It is the machine's local time, or that of TZ.
"""

from __future__ import annotations

import sys
import time

from superd.handlers import exits, stdio
from superd.handlers.run import run

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping

    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {}


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("daytime", OPTIONS, _tell, argv)


async def serve(
    reader: Reader,  # noqa: ARG001
    writer: Writer,
    options: Mapping[str, object],  # noqa: ARG001
) -> int:
    """Serve the connection in an event loop."""
    writer.write(line_of(time.time()))
    return exits.OK


def datagram(
    data: bytes,  # noqa: ARG001
    peer: tuple[str, int],  # noqa: ARG001
    options: Mapping[str, object],  # noqa: ARG001
) -> bytes | None:
    """Answer a datagram, whatever is in it, with the line."""
    return line_of(time.time())


def line_of(now: float) -> bytes:
    """Write a moment as the line of the service."""
    # A warm process may have been given its TZ since the C library last looked.
    time.tzset()
    return time.ctime(now).encode("ascii") + b"\r\n"


def _tell(_options: Mapping[str, object]) -> int:
    stdio.write(line_of(time.time()))
    stdio.drop_input()
    return exits.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
