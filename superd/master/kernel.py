"""Name the system calls that can fail for want of something: the seam of the tests.

The master calls them through one object, so that a test can let the N-th of them fail with
a real errno and see that nothing leaks (tests/fakeos.py). Calls that cannot fail for want
of resources, or only by our own fault, are made directly.
"""

from __future__ import annotations

import fcntl
import os
import socket
from typing import Any


class Kernel:
    """The real calls, each under its own name."""

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """Call socket(2), close-on-exec."""
        return socket.socket(family, kind)

    def bind(self, sock: socket.socket, address: Any) -> None:
        """Call bind(2)."""
        sock.bind(address)

    def listen(self, sock: socket.socket, backlog: int) -> None:
        """Call listen(2)."""
        sock.listen(backlog)

    def accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Call accept4(2), close-on-exec, blocking."""
        return sock.accept()

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        """Call socketpair(2), SOCK_SEQPACKET: a channel to a launcher."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def memfd(self, name: str) -> int:
        """Call memfd_create(2)."""
        return os.memfd_create(name, os.MFD_CLOEXEC)

    def pipe(self) -> tuple[int, int]:
        """Call pipe2(2), close-on-exec."""
        return os.pipe2(os.O_CLOEXEC)

    def dup(self, fd: int, lowest: int = 0) -> int:
        """Call fcntl(2), F_DUPFD_CLOEXEC."""
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)

    def open_null(self) -> int:
        """Call open(2) of /dev/null."""
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def spawn(
        self, argv: list[str], environment: Any, actions: list[Any], **flags: Any
    ) -> int:
        """Call posix_spawn(3)."""
        return os.posix_spawn(
            argv[0], argv, environment, file_actions=actions, setsigmask=[], **flags
        )

    def send(self, sock: socket.socket, data: bytes, fds: list[int]) -> None:
        """Call sendmsg(2) with descriptors."""
        socket.send_fds(sock, [data], fds)
