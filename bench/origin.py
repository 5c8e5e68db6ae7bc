"""Run the web server that stands behind relays and proxies, and see whom it is asked by.

The rule of the file: a figure of a proxy is one only if what it answered was asked for
here, and a figure of a cache only if it was not.
"""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import relays
from peers import Place
from server import DidNotStartError, Server, free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from scenes import Scene

HANDLED = 2
"""Of the three numbers of nginx's stub_status: accepts, handled, requests."""


class Origin:
    """One nginx with the files; DidNotStartError says why there is none."""

    def __init__(self, scene: Scene, programs: dict[str, str], folder: Path) -> None:
        if "nginx" not in programs:
            raise DidNotStartError("nginx is not installed")
        own = folder / scene.name / "origin"
        own.mkdir(parents=True)
        (self.port,) = free_ports(1)
        place = Place(own, self.port, folder / "www", folder / "echo.py", programs)
        command = relays.web_server(place)
        self._caches = scene.behind == "cache"
        self._server = Server(f"{scene.name}-origin", command, [self.port], own)

    def count(self) -> int:
        """Count the requests it ever had, this one too."""
        url = f"http://127.0.0.1:{self.port}{relays.COUNT}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return int(lines[2].split()[HANDLED])

    def judge(self, before: int, answers: int) -> dict[str, int]:
        """Give the kind and number of answers that came from elsewhere than claimed."""
        asked = self.count() - before - 1
        if self._caches:
            return {"missed": asked} if asked else {}
        return {"cached": answers - asked} if asked < answers else {}

    def stop(self) -> None:
        """End it."""
        self._server.stop()
