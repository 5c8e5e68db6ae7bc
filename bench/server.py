"""Start a server, wait until it listens, load it, stop it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measure import Tree

if TYPE_CHECKING:
    from pathlib import Path

START_S = 15.0
STOP_S = 15.0
SETTLE_S = 2.0
PROBE_S = 0.0005
LISTEN = "0A"  # TCP_LISTEN of the kernel, as /proc/net/tcp writes it


class DidNotStartError(Exception):
    """A server ended, or did not listen in time; the text is its own last line."""


def free_ports(count: int) -> list[int]:
    """Find ports that are free, below those which the kernel hands to clients."""
    found = []
    for port in range(20000, 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do it: a port whose last connections linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise SystemExit(f"no {count} free ports between 20000 and 32000")


def listening_ports() -> set[int]:
    """List the TCP ports of IPv4 that are listened on, without a connection to any."""
    found = set()
    with open("/proc/net/tcp", encoding="ascii") as lines:
        next(lines)
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state != LISTEN:
                break  # the listeners come first; behind them there can be thousands
            found.add(int(local.rpartition(":")[2], 16))
    return found


class Server:
    """One running server.

    `start_s` is the time from its exec until all ports were listened on.
    """

    def __init__(
        self, name: str, command: list[str], ports: list[int], folder: Path
    ) -> None:
        self.ports = ports
        self.output = folder / "output"
        self.tree = Tree(name.replace(" ", "-"))
        began = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.tree.wrap(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )
        self.tree.began(self.process.pid)
        try:
            self._wait_for(set(ports), began + START_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - began

    def _wait_for(self, ports: set[int], until: float) -> None:
        while not ports <= listening_ports():
            status = self.process.poll()
            if status is not None or time.monotonic() > until:
                said = self.output.read_text(errors="replace").strip()
                last = said.replace(f"{self.output.parent}/", "").split("\n")[-1]
                silent = f"it does not listen after {START_S:g} s"
                if status is not None:
                    silent = f"it ended without a word, with status {status}"
                raise DidNotStartError(last or silent)
            time.sleep(PROBE_S)

    def stop(self) -> None:
        """End it: ask, then kill it with all that is left."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"pid {self.process.pid} did not end in {STOP_S:g} s and is killed")
            self.process.kill()
            self.process.wait()
        self.tree.close()


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator is told: its program and mode, clients, and arguments."""

    program: tuple[str, ...]
    clients: int
    arguments: tuple[str, ...] = ()

    def start(self, port: int, seconds: float) -> subprocess.Popen[bytes]:
        """Start it; `finish` gives its figures."""
        numbers = (str(port), str(self.clients), str(seconds))
        command = [*self.program, *numbers, *self.arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def run(self, port: int, seconds: float) -> dict[str, Any]:
        """Run it to its end."""
        return finish(self.start(port, seconds))


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for a load and read what it prints; `failures` is the sum of all kinds."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the load ended with status {process.returncode}")
    figures: dict[str, Any] = json.loads(said)
    kinds = ("refused", "reset", "wrong", "early", "timeout")
    figures["kinds"] = {kind: figures[kind] for kind in kinds if figures[kind]}
    figures["failures"] = sum(figures["kinds"].values())
    return figures
