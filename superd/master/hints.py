"""Say for each service how to try it: a line a newcomer can paste."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superd.master.opened import Open

_AFTER = {"discard": "   # swallows what you type", "time": " | od -An -tu1"}


def hints(services: list[dict[str, Any]], listeners: dict[str, Open]) -> list[str]:
    """One line for each service that has an open listener."""
    lines = []
    for service in services:
        opened = [
            listeners[one["key"]]
            for one in service["listeners"]
            if one["key"] in listeners
        ]
        if opened:
            lines.append((service["name"], _try(service, opened)))
    width = max((len(name) for name, _ in lines), default=0)
    return [f"{name:<{width}}   {line}" for name, line in lines]


def _try(service: dict[str, Any], opened: list[Open]) -> str:
    handler = service["launcher"]["program"].get("handler", "")
    if handler == "finger":
        for one in opened:
            if one.sock.family == socket.AF_INET and one.sock.getsockname()[1] == 79:  # noqa: PLR2004
                return "finger @localhost"
    sock = opened[0].sock
    if sock.family == socket.AF_UNIX:
        return f"nc -U {sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if handler == "httpd":
        shown = f"[{host}]" if ":" in host else host
        return f"curl http://{shown}:{port}/"
    if sock.type == socket.SOCK_DGRAM:
        return f"nc -u {host} {port}"
    if handler == "finger":
        return f"printf '\\r\\n' | nc {host} {port}"
    return f"nc {host} {port}{_AFTER.get(handler, '')}"
