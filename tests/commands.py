"""Run the superd command to its end, or detached, for tests of what it says and leaves."""

from __future__ import annotations

import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_under_test import DEADLINE, eventually, read_all

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "superd"]


def environment(**more):
    """The environment that finds this checkout, whatever the working directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run_superd(*arguments, prefix=(), cwd=ROOT, **more):
    """Run `superd ARGUMENTS` and return it, ended; the deadline is the test's."""
    return subprocess.run(
        [*prefix, *COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment(**more),
        timeout=DEADLINE,
    )


def write_config(path, services, **top):
    """Write a configuration and return its path."""
    path.write_text(json.dumps({**top, "services": services}, indent=1))
    return path


@functools.cache
def _reachable_by_nobody():
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [sys.executable, "-c", "import superd.__main__"]
    done = subprocess.run(command, capture_output=True, check=False, env=environment())
    return done.returncode == 0


def as_ordinary_user():
    """Return what to put before a command so that no root runs it."""
    if os.geteuid() != 0:
        return []
    if not _reachable_by_nobody():
        pytest.skip("user nobody cannot reach this checkout or its Python")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def shell(redirections):
    """Return a prefix that runs the rest of the command with these redirections."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh"]


def status_of(pid):
    """Return /proc/PID/status as a mapping."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}


class Detached:
    """A superd that was started with -d, known by its pid file and its log file."""

    def __init__(self, folder, services, *arguments, prefix=(), config=None):
        self.folder = folder
        self.log = folder / "log"
        self.pidfile = folder / "pid"
        self.file = folder / "superd.yaml"
        if config is None:
            write_config(self.file, services, log={"to": str(self.log)})
        else:
            self.file.write_text(config)
        self.started = run_superd(
            *("-d", "-c", self.file, "-p", self.pidfile, *arguments), prefix=prefix
        )

    @property
    def pid(self):
        return int(self.pidfile.read_text())

    def lines(self, pattern=""):
        if not self.log.exists():
            return []
        text = self.log.read_text()
        return [line for line in text.splitlines() if re.search(pattern, line)]

    def wait_line(self, pattern):
        return eventually(lambda: self.lines(pattern), f"{pattern} in {self.lines()}")[
            -1
        ]

    def address(self, service):
        line = self.wait_line(f"listen service={service} ")
        host, _, port = line.rpartition("address=")[2].rpartition(":")
        return host, int(port)

    def talk(self, service, data=b""):
        with socket.create_connection(self.address(service), timeout=DEADLINE) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def stop(self):
        """TERM it and wait until it has gone."""
        pid = self.pid
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGTERM)
            assert select.select([fd], [], [], DEADLINE)[0], "it did not end"
        finally:
            os.close(fd)

    def close(self):
        """End it in any case; a failed test leaves nothing either."""
        if self.pidfile.exists() and self.pidfile.read_text().strip():
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
