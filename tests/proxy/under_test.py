"""Start the proxy under test: superd with `handler: proxy`, or whatever proxy there is.

With PROXY_UNDER_TEST=HOST:PORT the tests that need no option of ours are put to the proxy
that listens there, and the others are skipped: what is asked of us can be asked of others.
It must let clients of 127.0.0.1 go to 127.0.0.1, and CONNECT to any port.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from daemon_under_test import DaemonFactory

OTHER = os.environ.get("PROXY_UNDER_TEST", "")
MODES = {
    "loop": {"mode": "loop", "workers": 1},
    "process": {"mode": "process"},
    "pool": {"mode": "pool", "workers": 1, "max_workers": 1},
}
USUAL = {"allow_private": True, "ports": ["any"]}
HASTE = {"head": 10, "body": 10, "idle": 10, "connect": 5, "reply": 10, "send": 10}


class Proxy:
    """One proxy that runs: where it listens, and what it says."""

    def __init__(self, address, mode, daemon=None):
        self.address = address
        self.mode = mode
        self.daemon = daemon

    @property
    def authority(self):
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def is_ours(self):
        return self.daemon is not None

    def processes(self):
        """Return the pids of the daemon's descendants: launcher, workers, children."""
        found, left = [], self.daemon.children()
        while left:
            pid = left.pop()
            found.append(pid)
            try:
                text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except FileNotFoundError:
                continue  # it has ended meanwhile
            left += map(int, text.split())
        return found


class Daemons:
    """The daemons of one module, one for each set of options."""

    def __init__(self, folder):
        self._factory = DaemonFactory(folder)
        self._running = {}

    def get(self, options, keys, mode):
        """Return the daemon with these options; it has one service for each mode."""
        key = json.dumps([options, keys, mode == "pool"], sort_keys=True)
        if key not in self._running:
            modes = ["pool"] if mode == "pool" else ["loop", "process"]
            services = {
                name: {
                    "listen": "127.0.0.1:0",
                    "handler": "proxy",
                    "limits": {"connections": 200},
                    "options": options,
                    **MODES[name],
                    **keys,
                }
                for name in modes
            }
            self._running[key] = self._factory({"services": services})
        return self._running[key]

    def __iter__(self):
        return iter(self._factory.daemons)

    def read_logs(self):
        """Take what they have said: a pipe that nobody reads is full one day."""
        for daemon in self._running.values():
            daemon.read_log()

    def finish(self):
        self._factory.finish()


def starter(daemons, mode):
    """Return the function that gives a proxy in one mode."""

    def start(*, keys=None, **options):
        if OTHER:
            if options or keys:
                pytest.skip("needs options of our own")
            if mode != "loop":
                pytest.skip("another proxy has one mode")
            host, _, port = OTHER.rpartition(":")
            return Proxy((host, int(port)), mode)
        seconds = {**HASTE, **options.pop("timeouts", {})}
        timeouts = {name: f"{round(n * 1000)}ms" for name, n in seconds.items()}
        options = {**USUAL, "timeouts": timeouts, **options}
        daemon = daemons.get(options, keys or {}, mode)
        return Proxy(daemon.address(mode), mode, daemon)

    return start
