"""Talk to systemd: sd_notify(3) and sd_listen_fds(3), the bits we need."""

from __future__ import annotations

import os
import socket
import time

FIRST_FD = 3
_MINE = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)


class Notifier:
    """Sends state to the service manager; without one every call does nothing."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog = _watchdog(environ)
        """Seconds within which the manager wants a sign of life; None: it does not."""

    def send(self, *lines: str) -> None:
        """Send one datagram; a manager that does not read it is its own trouble."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return

    def ready(self, status: str) -> None:
        """Say that every listener is up."""
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload begins: one datagram, with the clock systemd compares."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self.send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog: from the main loop and from nowhere else."""
        self.send("WATCHDOG=1")


def _watchdog(environ: dict[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID", str(os.getpid()))
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or pid != str(os.getpid()):
        return None
    return int(text) / 1e6


class Inherited:
    """The sockets that a manager (or a test) opened for us, by name."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.by_name: dict[str, list[socket.socket]] = {}
        count = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
            return
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        for number in range(int(count)):
            fd = FIRST_FD + number
            name = names[number] if number < len(names) and names[number] else "unknown"
            os.set_inheritable(fd, False)
            try:
                sock = socket.socket(fileno=fd)
            except OSError:
                continue  # a FIFO or a file: nothing that a service could listen on
            sock.setblocking(False)
            self.by_name.setdefault(name, []).append(sock)


def forget(environ: dict[str, str]) -> None:
    """Take out of the environment what was meant for this process alone."""
    for name in _MINE:
        environ.pop(name, None)
