"""Keep one descriptor in reserve, to get out of "too many open files" with.

At EMFILE the listener stays readable: polled on, it makes a loop of failing accepts
(every inetd measured spins at 100 % CPU or dies). So the reserve is given up, one
connection is accepted and closed with it, and the listener is left alone for a while.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from superd.master.kernel import Kernel

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of accept that say "not now": accept(2)."""

GONE = (
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EPERM,
    errno.ETIMEDOUT,
)
"""Errors of the connection that was next: Linux passes them on (accept(2), "Error
handling"); EPERM is a firewall's. The next accept is another connection's."""


class Reserve:
    """The one descriptor."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._fd: int | None = None
        self.refill()

    def refill(self) -> None:
        """Take a descriptor into reserve again, if there is one to be had."""
        if self._fd is None:
            try:
                self._fd = self._kernel.open_null()
            except OSError as error:
                if error.errno not in SHORT:
                    raise

    def shed(self, sock: socket.socket) -> bool:
        """Accept and close one connection with the reserve; False if there was none."""
        if self._fd is None:
            self.refill()  # somebody else had taken the descriptor
            return False
        os.close(self._fd)
        self._fd = None
        try:
            conn, _ = self._kernel.accept(sock)
        except OSError:
            return False  # it has gone meanwhile, or somebody else took the descriptor
        else:
            conn.close()
            return True
        finally:
            self.refill()

    def close(self) -> None:
        """Let go of it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
