"""Send a piece out of the middle of a file: a step of a conversation.

The rule of the file: it is superd.handlers.conversation.SendFile with an offset, and
means the same in a process and in a loop.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from superd.handlers import stdio
from superd.handlers.exits import TooSlow

if TYPE_CHECKING:
    from superd.handlers.streams import Reader, Writer
    from superd.handlers.wire import Wire


class SendPart(NamedTuple):
    """Send `size` bytes of a file from `start`; gives back how many it really had."""

    fd: int
    start: int
    size: int
    deadline: float
    what: str

    def blocking(self, wire: Wire) -> int:
        """Copy it to fd 1; from the beginning of a file the kernel does."""
        if not self.start:
            return wire.write_file(self.fd, self.size, self.deadline, self.what)
        sent = 0
        while sent < self.size:
            wanted = min(self.size - sent, stdio.CHUNK)
            data = os.pread(self.fd, wanted, self.start + sent)
            if not data:
                break
            wire.write(data, self.deadline, self.what)
            sent += len(data)
        return sent

    async def waiting(self, reader: Reader, writer: Writer) -> int:  # noqa: ARG002
        """Let the kernel copy it to the stream, behind what was written."""
        try:
            return await writer.sendfile(self.fd, self.start, self.size, self.deadline)
        except TimeoutError:
            # What is still unsent is not waited for by the worker.
            with suppress(OSError):  # ENOTCONN: the peer is gone
                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            raise TooSlow(f"the peer was too slow to read {self.what}") from None
