"""Open listening sockets, and say whose they are when they are taken.

One socket for each address and family, IPV6_V6ONLY always (a dual-stack socket shows IPv4
peers as ::ffff:1.2.3.4 and collides with 0.0.0.0), close-on-exec always (a handler that
inherits one keeps the port taken after our end).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superd.master.kernel import Kernel

BACKLOG = 4096
"""The kernel cuts it to net.core.somaxconn: the backlog is our queue for full services."""

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class ListenError(Exception):
    """One address cannot be listened on."""

    def __init__(self, place: str, text: str, number: int) -> None:
        super().__init__(f"{place}: {text}")
        self.errno = number


def open_listener(
    kernel: Kernel, spec: dict[str, Any], port: int | None = None
) -> socket.socket:
    """Bind and listen as one `listeners` entry of the plan says; raises ListenError.

    `port` replaces a 0: both families of one `listen: 0` get the same port.
    """
    try:
        if spec["family"] == "unix":
            return _open_unix(kernel, spec["path"], spec["type"])
        return _open_inet(kernel, spec, port or spec["port"])
    except OSError as error:
        number = error.errno or 0
        text = f"cannot listen on {describe(spec)}: {_explain(spec, number)}"
        raise ListenError(spec["place"], text, number) from error


def describe(spec: dict[str, Any]) -> str:
    """Spell an address as the configuration's reader knows it."""
    key: str = spec["key"]
    return key


def _open_inet(kernel: Kernel, spec: dict[str, Any], port: int) -> socket.socket:
    family = _FAMILIES[spec["family"]]
    stream = spec["type"] == "stream"
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    sock = kernel.open_socket(family, kind)
    try:
        # Without it the next start fails for the minute that our closed connections
        # spend in TIME_WAIT. On UDP it would let a second superd share the port.
        if stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        address, _, zone = spec["address"].partition("%")
        if zone:
            kernel.bind(sock, (address, port, 0, socket.if_nametoindex(zone)))
        else:
            kernel.bind(sock, (address, port))
        if stream:
            kernel.listen(sock, BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(kernel: Kernel, path: str, kind: str) -> socket.socket:
    type_ = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
    sock = kernel.open_socket(socket.AF_UNIX, type_)
    try:
        _clear_stale(path, type_)
        # The mode must be right from the first moment, so it comes from the umask.
        # 0666 as systemd's: who may connect is decided by the folder.
        old = os.umask(0o111)
        try:
            kernel.bind(sock, path)
        finally:
            os.umask(old)
        try:
            if kind == "stream":
                kernel.listen(sock, BACKLOG)
        except OSError:
            os.unlink(path)
            raise
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _clear_stale(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket file that nobody listens on; anything else stays, and fails bind.

    Only a socket, only ours (or we are root), only after a connect was refused: never a
    file or a link, never one that answers.
    """
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(state.st_mode) or state.st_uid != os.geteuid():
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def identity(spec: dict[str, Any]) -> tuple[int, int] | None:
    """Name the file that a Unix listener has just made; None where there is none."""
    if spec["family"] != "unix":
        return None
    try:
        state = os.stat(spec["path"], follow_symlinks=False)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


def unlink_unix(spec: dict[str, Any], made: tuple[int, int] | None) -> None:
    """Remove the file of a Unix listener that we close, if it is still that file."""
    try:
        if made is not None and made == identity(spec):
            os.unlink(spec["path"])
    except FileNotFoundError:
        return
    except OSError:
        return  # the folder is closed to us by now; the next start clears it


def _explain(spec: dict[str, Any], number: int) -> str:
    name = errno.errorcode.get(number, str(number))
    text = f"{name} ({os.strerror(number)})"
    if number == errno.EACCES and spec["family"] != "unix":
        return (
            f"{text}: ports below 1024 need root or CAP_NET_BIND_SERVICE "
            "(or sysctl net.ipv4.ip_unprivileged_port_start)"
        )
    if number == errno.EADDRNOTAVAIL:
        return f"{text}: no interface of this machine has that address"
    if number == errno.EADDRINUSE and spec["family"] == "unix":
        return f"{text}: somebody listens there, or it is no socket of ours"
    return text


def reported_port(sock: socket.socket) -> int:
    """Give the port a socket really has."""
    if sock.family == socket.AF_UNIX:
        return 0
    port: int = sock.getsockname()[1]
    return port
