"""Install a Python handler for a test: a module and the entry point that names it.

And one that suits most tests of workers: what it does is said by its peer.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from daemon_under_test import Daemon


def install(folder: Path, name: str, source: str) -> dict[str, str]:
    """Write the module and its metadata; returns the environment that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    module = f"{name}_module"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(f"[superd.handlers]\n{name} = {module}\n")
    root = Path(__file__).resolve().parent.parent
    return {"PYTHONPATH": f"{root}:{folder}"}


RUNNER = '''
"""Run what the peer sends, up to a line that says end, as the body of a function."""
import asyncio, gc, io, os, resource, signal, socket, subprocess, sys, textwrap, time

LAST = b"\\nend\\n"

def compiled(source, head):
    scope = dict(globals())
    exec(head + "\\n" + textwrap.indent(source.decode(), " "), scope)
    return scope["go"]

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def main(argv):
    source = b""
    while not source.endswith(LAST):
        data = os.read(0, 1)  # what follows is left for what runs
        if not data:
            return 0
        source += data
    return compiled(source.removesuffix(LAST), "def go():")()

async def serve(reader, writer, options):
    source = (await reader.readuntil(LAST)).removesuffix(LAST)
    return await compiled(source, "async def go(reader, writer):")(reader, writer)
'''


def install_runner(folder: Path) -> dict[str, str]:
    """Install the handler `runner`, which does in every mode what its peer says."""
    return install(folder, "runner", RUNNER)


def runner(mode: str, **keys: Any) -> dict[str, Any]:
    """Configure a service of that handler: one worker, where there are workers."""
    workers = {
        "process": {},
        "pool": {"workers": 1, "max_workers": 1},
        "loop": {"workers": 1},
    }[mode]
    service = {"listen": "127.0.0.1:0", "handler": "runner", "mode": mode}
    return {**service, **workers, **keys}


def script(source: str) -> bytes:
    """Spell what is to be run."""
    return textwrap.dedent(source).strip().encode() + b"\nend\n"


def run(daemon: Daemon, source: str, service: str = "w", then: bytes = b"") -> str:
    """Have a piece of code run, with input of its own; returns what it said."""
    return daemon.talk(service, script(source) + then, half_close=False).decode()


def begin(daemon: Daemon, source: str, service: str = "w") -> socket.socket:
    """Have it run; returns the connection, which the caller closes."""
    sock = daemon.connect(service)
    sock.sendall(script(source))
    return sock
