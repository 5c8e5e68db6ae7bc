"""Keep the UDP listeners that the master has lent us, until they are idle or we leave."""

from __future__ import annotations

import importlib
import select
import socket
from typing import TYPE_CHECKING, Any

from superd.core.protocol import clean
from superd.launcher.datagrams import IDLE, DatagramService

if TYPE_CHECKING:
    from superd.launcher.channel import Channel
    from superd.launcher.spec import Spec


class Lent:
    """The sockets with their handler; who reads them is the launcher's loop."""

    def __init__(
        self, spec: Spec, module: Any, channel: Channel, epoll: select.epoll
    ) -> None:
        self.services: dict[int, DatagramService] = {}
        self._spec = spec
        self._module = module
        self._channel = channel
        self._epoll = epoll

    def take(self, fd: int, words: list[str], now: float) -> None:
        """Serve a listener: its number and the ports of all our UDP services."""
        conn, ports = words
        answer = getattr(self._module, "datagram", None)
        sock = socket.socket(fileno=fd)
        if answer is None or sock.family == socket.AF_UNIX:
            sock.close()
            why = "no UDP socket" if answer else "the handler answers no datagrams"
            self._channel.report(f"fail {conn} handler {why}")
            return
        own = frozenset(int(port) for port in ports.split(",") if port)
        try:
            options = parse_options(self._module, self._spec)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever its flags raise
            sock.close()
            text = f"options: {error}".encode("ascii", "backslashreplace").decode()
            self._channel.report(f"fail {conn} handler {clean(text)}")
            return
        service = DatagramService(sock, conn, answer, options, own, now)
        self.services[sock.fileno()] = service
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def sweep(self, now: float) -> None:
        """Tell what was refused; give back what nobody asked anything of."""
        for service in list(self.services.values()):
            self._report_refused(service)
            if now - service.heard > IDLE:
                self._return(service)

    def end_all(self) -> None:
        """Give every listener back."""
        for service in list(self.services.values()):
            self._return(service)

    def _return(self, service: DatagramService) -> None:
        fd = service.sock.fileno()
        del self.services[fd]
        self._epoll.unregister(fd)
        self._report_refused(service)
        service.sock.close()
        self._channel.report(f"end {service.conn} 0 0 0")

    def _report_refused(self, service: DatagramService) -> None:
        for reason, count in service.refused.items():
            self._channel.note(f"refuse datagrams reason={reason} count={count}")
        service.refused.clear()
        if service.faults:
            self._channel.note(f"{service.faults} datagrams met a bug of the handler")
            service.faults = 0


def parse_options(module: Any, spec: Spec) -> Any:
    """Give a handler that is called with options what its own main would see."""
    table = getattr(module, "OPTIONS", {})
    parser = importlib.import_module("superd.handlers.options")
    return parser.parse(spec.argv, table, spec.handler)
