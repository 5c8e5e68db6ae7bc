"""Make and end the TCP streams between two stages.

The rule of the file: a joint ends badly by itself. From its first moment it has
SO_LINGER {1, 0}: whatever closes it (a crash of ours, a kill -9, an early return) sends
RST, and the other side reads ECONNRESET. Only `finish` sends FIN, which means: this was
all. TCP has no other word for a failure; a plain close would make every truncated stream
look complete.

A host that is lost sends nothing. A reader finds out by keepalive. A writer cannot:
keepalive waits while bytes are unacknowledged, and TCP_USER_TIMEOUT also ends a
connection whose peer is merely slow and answers every window probe (Linux 5.11). So
`is_dead` asks the kernel for what only a lost host shows.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from superd.handlers.pipeline.failure import UNREACHABLE, USAGE, Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    Bytes = bytes | bytearray | memoryview

_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FIN_ON_CLOSE: Final = struct.pack("ii", 0, 0)
_TCP_INFO: Final = struct.Struct("=8B 13I")
"""Up to tcpi_last_ack_recv; tcp.h has kept this part since Linux 2.6."""
_TCP_CLOSE: Final = 7
_UNANSWERED: Final = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_PORT_TRIES: Final = 16

_LATER: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EADDRNOTAVAIL,
    }
)
"""What a host that is not up yet answers with, or what is answered for it."""


class Stream(Protocol):
    """What is used of a socket that is connected, and what tls.py has as well."""

    def fileno(self) -> int:
        """What to poll; -1 once it is closed."""

    def recv(self, size: int, flags: int = ..., /) -> bytes:
        """Take what has come; empty at the end."""

    def send(self, data: Bytes, flags: int = ..., /) -> int:
        """Send some of it; returns how much."""

    def sendmsg(self, parts: Iterable[Bytes], /) -> int:
        """Send some of several parts as one."""

    def getsockname(self) -> Any:
        """Return our address."""

    def getpeername(self) -> Any:
        """Return the address of the other end."""

    def setsockopt(self, level: int, name: int, value: int | bytes, /) -> None:
        """Set an option of the socket."""

    def shutdown(self, how: int, /) -> None:
        """Say that this was all."""

    def close(self) -> None:
        """Close it; without `finish` that is a reset."""


class Address(NamedTuple):
    """Where to listen or connect; an empty host is every address of this one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if host else str(self.port)


def parse_address(text: str, *, host_needed: bool) -> Address:
    """Read `9003`, `hostC:9003`, `192.0.2.1:9003` or `[2001:db8::1]:9003`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if (
        not port.isascii()
        or not port.isdigit()
        or int(port) > 65535  # noqa: PLR2004  of 16 bits
        or (colon and not host)
        or (":" in host and not bracketed)
        or (host_needed and (not host or int(port) == 0))
    ):
        example = "HOST:PORT" if host_needed else "PORT or HOST:PORT"
        raise Failure(
            USAGE, f"{text}: no address; write {example} (IPv6: [2001:db8::1]:9003)"
        )
    return Address(host, int(port))


def listen(address: Address) -> list[socket.socket]:
    """Listen on all addresses of a name, or of this host; the same port on each."""
    found = _resolve(address, socket.AI_PASSIVE)
    for left in reversed(range(_PORT_TRIES)):
        try:
            return _listen_on(found, address)
        except OSError as error:
            # Port 0 of several addresses: what one family gave may be taken in another.
            if error.errno == errno.EADDRINUSE and address.port == 0 and left:
                continue
            why = errno.errorcode.get(error.errno or 0, "")
            raise Failure(
                UNREACHABLE,
                f"cannot listen on {address}: {why} ({error.strerror}); "
                "choose another port or address",
            ) from None
    raise AssertionError("the last try returns or raises")


def listen_in(host: str, ports: range) -> list[socket.socket]:
    """Listen on a port of a range, or of the kernel's where that is empty.

    They are tried from a place that another process will not begin with too.
    """
    start = int.from_bytes(os.urandom(4), "big") % len(ports) if ports else 0
    found = _resolve(Address(host, 0), socket.AI_PASSIVE)
    for place in range(len(ports)):
        address = Address(host, ports[(start + place) % len(ports)])
        try:
            return _listen_on(found, address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            why = errno.errorcode.get(error.errno or 0, "")
            raise Failure(
                UNREACHABLE, f"cannot listen on {address}: {why} ({error.strerror})"
            ) from None
    if ports:
        raise Failure(
            UNREACHABLE,
            f"no port for a joint: {ports[0]}-{ports[-1]} are all in use; more of them, "
            "or fewer pipelines at a time",
        )
    return listen(Address(host, 0))


def _listen_on(
    found: list[tuple[int, str, int]], address: Address
) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    port = address.port
    try:
        for family, host, _ in found:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                # A kernel without IPv6 is told by its name alone.
                if error.errno == errno.EAFNOSUPPORT and not address.host:
                    continue
                raise
            listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen()
            port = sock.getsockname()[1]
    except OSError:
        close_all(listeners)
        raise
    return listeners


def close_all(listeners: list[socket.socket]) -> None:
    """Close listeners; who waits in their backlogs is reset."""
    for sock in listeners:
        sock.close()
    listeners.clear()


def accept(
    listeners: list[socket.socket], beside: socket.socket | None
) -> socket.socket:
    """Wait for a peer on any of them; BrokenPipeError when the one `beside` has gone."""
    poller = select.poll()
    for sock in listeners:
        poller.register(sock, select.POLLIN)
    if beside is not None:
        poller.register(beside, 0)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if beside is not None and beside.fileno() in ready:
            raise BrokenPipeError
        for sock in listeners:
            if sock.fileno() in ready:
                # A peer that has gone again is none.
                with suppress(BlockingIOError, ConnectionAbortedError):
                    return sock.accept()[0]


def dial(
    address: Address, wait: float, dead: float, *, again: bool = True
) -> socket.socket:
    """Connect to any address of a name, in `wait` seconds.

    `again`: the host may be late, and is asked until then; else it is known to listen.
    """
    until = monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        try:
            return _dial_once(address, until, dead)
        except socket.gaierror as error:
            later = error.errno == socket.EAI_AGAIN
            why = str(error.strerror)
        except OSError as error:
            later = error.errno in _LATER or isinstance(error, TimeoutError)
            code = errno.errorcode.get(error.errno or 0, "ETIMEDOUT")
            why = f"{code} ({error.strerror or 'no answer'})"
        left = until - monotonic()
        if not again:
            text = f"cannot connect to {address}: {why}; this host must reach that one"
            raise Failure(UNREACHABLE, text)
        if not later or left <= 0:
            raise Failure(
                UNREACHABLE,
                f"cannot connect to {address}: {why}, tried for {wait:g} s; start "
                "that stage first, or give it more time with --wait",
            )
        sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _dial_once(address: Address, until: float, dead: float) -> socket.socket:
    last: OSError = TimeoutError()
    for family, host, port in _resolve(address, 0):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.05, until - monotonic()))
            sock.connect((host, port))
            # While nobody listens on a port of the ephemeral range, a connection may
            # get that port for its own, and TCP connects it to itself.
            if sock.getsockname() == sock.getpeername():
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
            guard(sock, dead)
        except OSError as error:
            sock.close()
            last = error
            continue
        return sock
    raise last


def _resolve(address: Address, flags: int) -> list[tuple[int, str, int]]:
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags
        )
    except socket.gaierror as error:
        if flags == 0 and error.errno == socket.EAI_AGAIN:
            raise
        why = error.strerror
    except ValueError:
        why = "no name that a host can have"  # a label of 64 letters, a NUL byte
    else:
        unique = {(family, where[0]): where[1] for family, *_, where in found}
        return [
            (family, str(host), int(port)) for (family, host), port in unique.items()
        ]
    raise Failure(UNREACHABLE, f"{address.host}: {why}; check the name")


def guard(sock: socket.socket, dead: float) -> None:
    """Make a connection end badly by itself, and soon where its host is lost."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    if sock.family == socket.AF_UNIX:
        return
    step = max(1, round(dead / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, step)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, step)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _UNANSWERED)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def finish(sock: Stream) -> None:
    """End a joint cleanly: all that was written arrives, and then FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FIN_ON_CLOSE)
    with suppress(OSError):  # ENOTCONN: the peer has gone, there is nobody to tell
        sock.shutdown(socket.SHUT_WR)
    sock.close()


def is_dead(sock: socket.socket, dead: float) -> bool:
    """Tell whether the host at the other end has stopped to acknowledge.

    A slow reader acknowledges: its window is shut, nothing is in flight, and each probe
    is answered, which sets the count of probes back to 0.
    """
    if sock.family == socket.AF_UNIX:
        return False
    info = _TCP_INFO.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    )
    retransmits, probes = info[2], info[3]
    unacknowledged, silence = info[12], info[20] / 1000
    waiting = unacknowledged and retransmits >= _UNANSWERED
    return bool((waiting or probes >= _UNANSWERED) and silence > dead)


def was_reset(sock: socket.socket) -> bool:
    """Tell whether a stream that we never end ourselves was reset, not ended.

    For where another process has read it, and has had the error: the kernel's state is
    TCP_CLOSE after a reset and TCP_CLOSE_WAIT after FIN.
    """
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def name_of_peer(sock: socket.socket) -> str:
    """Spell the other end; an IPv6 address in brackets."""
    try:
        host, port, *_ = sock.getpeername()
    except (OSError, ValueError):
        return "a peer that has gone"
    return str(Address(host, port))


def sound_stdio() -> None:
    """Open what is closed of fds 0 to 2, so that no joint gets such a number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
