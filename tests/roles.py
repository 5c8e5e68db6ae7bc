"""Run roles of superd-pipe, and be the stage before or after one, by a plain socket."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from commands import ROOT, environment
from inetd import DEADLINE, reached

COMMAND = [sys.executable, "-m", "superd.pipe"]
RST_ON_CLOSE = (1).to_bytes(4, sys.byteorder) + bytes(4)


class Role:
    """One running superd-pipe, as a context; `listen` makes it tell its address."""

    def __init__(
        self, *flags, listen=None, to=None, program=(), prefix=(), more=(), **how
    ):
        argv = [*prefix, *COMMAND]
        if to is not None:
            argv += ["--to", spell(to)]
        ready, write = os.pipe() if listen is not None else (None, None)
        if listen is not None:
            argv += ["--listen", str(listen), "--ready-fd", str(write)]
        argv += flags
        if program:
            argv += ["--", *program]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **how}
        how.setdefault("env", environment())
        self.process = subprocess.Popen(
            argv,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            pass_fds=[*([write] if write else []), *more],
            **how,
        )
        self.address = ""
        if listen is not None:
            os.close(write)
            with os.fdopen(ready, "rb") as pipe:
                self.address = pipe.read().decode().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def pid(self):
        return self.process.pid

    @property
    def where(self):
        """The address as connect() wants it."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def end(self, data=None):
        """Wait for its end; returns status, stdout and stderr."""
        out, err = self.process.communicate(data, timeout=DEADLINE)
        text = err.decode()
        assert "Traceback" not in text, text
        return self.process.returncode, out or b"", text

    def child(self):
        """The pid of its program, once there is one."""
        path = f"/proc/{self.pid}/task/{self.pid}/children"

        def children():
            with open(path) as file:
                return file.read().split()

        # Before the exec it is still a Python that has its parent's name.
        assert reached(lambda: children() and command_of(children()[0]) != "python")
        return int(children()[0])


def command_of(pid):
    """The name of what a process has executed; `python` until it has."""
    with open(f"/proc/{pid}/comm") as file:
        name = file.read().strip()
    return "python" if name.startswith("python") else name


def spell(address):
    """Spell an address as --to wants it."""
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listener(host="127.0.0.1"):
    """Listen as the stage after would."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, 0), family=family)
    sock.settimeout(DEADLINE)
    return sock


def connect(role):
    """Connect as the stage before would."""
    return socket.create_connection(role.where, timeout=DEADLINE)


def read_to_end(sock):
    """Read a stream; returns its bytes and how it ended: `end` or `reset`."""
    sock.settimeout(DEADLINE)
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        return data, "reset"
    return data, "end"


def reset(sock):
    """Close as a stage does that has failed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


def is_running(pid):
    """Tell whether a process lives; a zombie does not."""
    with (
        suppress(FileNotFoundError, ProcessLookupError),
        open(f"/proc/{pid}/stat") as f,
    ):
        return re.search(r"\) (\S)", f.read())[1] not in "ZX"
    return False


def signal_and_wait(pid, number=signal.SIGKILL):
    """Send a signal to a process that is not our child, and wait for its end."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([pidfd], [], [], DEADLINE)[0]
    finally:
        os.close(pidfd)


def write_key(folder):
    """Write a key file as `head -c 32 /dev/urandom | base64` would."""
    path = folder / "key"
    path.write_text(os.urandom(32).hex())
    path.chmod(0o640)
    return path


PROGRAMS = {
    name: f"/usr/bin/{name}"
    for name in (
        *("cat", "sort", "grep", "head", "yes", "tr", "wc"),
        "sha256sum",
        "env",
    )
} | {"sh": "/bin/sh", "false": "/bin/false", "top": "/usr/bin/sort -rn"}


def pipe_service(key, listen="127.0.0.1:0", **options):
    """Configure a service `pipe` that runs what the tests need."""
    options = {"key": str(key), "programs": PROGRAMS, "arguments": True, **options}
    service = {"listen": listen, "handler": "pipe", "options": options}
    if os.geteuid() == 0:
        # Who can read the key, and write what a stage leaves in a test's folder.
        service["user"] = "root"
    return {"pipe": service}


class Run(Role):
    """One `superd-pipe run`, as a context."""

    def __init__(self, text, *flags, key=None, prefix=(), **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **how}
        if key is not None:
            flags = ("--key", str(key), *flags)
        self.process = subprocess.Popen(
            [*prefix, *COMMAND, "run", *flags, text],
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
            **how,
        )
