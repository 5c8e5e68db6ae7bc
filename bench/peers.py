"""Say how each server is started: its configuration, and its command.

The rule of the file: every peer gets its best. No limits, no logging, no access control
(tcp wrappers are switched off), user nobody for handlers; where two ways to run it differ,
the faster one. superd runs as it is shipped, with its log on stderr (a file here) at its
default level, two lines a connection, unless the row says otherwise.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server import DidNotStartError

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESS = {"mode": "process"}
POOL = {"mode": "pool", "workers": 4, "max_workers": 16}
LOOP_WORKERS = 1
LOOP = {"mode": "loop", "workers": LOOP_WORKERS}
KEPT_REQUESTS = 1_000_000
KEEP = {"limits": {"requests": KEPT_REQUESTS}}
"""httpd's options under which no connection of a round is closed for its requests."""
INETD_PID = Path("/run/inetd.pid")


@dataclass(frozen=True, slots=True)
class Place:
    """What a command is made for: a folder of its own, a port, and where things are."""

    folder: Path
    port: int
    www: Path
    echo: Path
    programs: dict[str, str]
    origin: int = 0
    """The port of the web server behind it, where a scene has one."""


Command = list[str]


def superd(
    connections: int = 1000, log: str = "info", **service: object
) -> Callable[[Place], Command]:
    """Make superd with one service; `log` is its level of logging.

    `options` may be a function of the place.
    """

    def build(place: Place) -> Command:
        own = dict(service)
        if own.get("handler") == "httpd":
            own["options"] = {"root": str(place.www), **KEEP}
        if callable(own.get("options")):
            own["options"] = own["options"](place)
        own["listen"] = f"127.0.0.1:{place.port}"
        own["limits"] = {"connections": connections}
        config = {"log": {"level": log}, "services": {"bench": own}}
        return superd_command(place.folder, config)

    return build


def superd_command(folder: Path, config: dict[str, object]) -> Command:
    """Write the configuration (JSON is YAML) and give the command."""
    file = folder / "superd.yaml"
    file.write_text(json.dumps(config, indent=1))
    return [sys.executable, "-m", "superd", "-c", str(file)]


def python(*flags: str) -> Callable[[Place], Command]:
    """Make the command of the echo program: the interpreter superd runs on, no venv."""
    interpreter = os.path.realpath(sys.executable)
    return lambda place: [interpreter, *flags, str(place.echo)]


def cat(_place: Place) -> Command:
    """Give the command of the plainest handler."""
    return ["/bin/cat"]


def micro_httpd(place: Place) -> Command:
    """Give the command of a web server that serves one connection on fd 0 and 1."""
    return [place.programs["micro-httpd"], str(place.www)]


def xinetd(
    handler: Callable[[Place], Command] | None, **more: str
) -> Callable[[Place], Command]:
    """Make xinetd with one service, with `more` keys; without a handler its own echo."""

    def build(place: Place) -> Command:
        keys = {
            "type": "UNLISTED",
            "id": "echo-stream",
            "socket_type": "stream",
            "protocol": "tcp",
            "wait": "no",
            "user": "nobody",
            "port": str(place.port),
            "bind": "127.0.0.1",
            "instances": "UNLIMITED",
            "per_source": "UNLIMITED",
            "cps": "1000000 1",
            "flags": "IPv4 NOLIBWRAP",
        }
        if handler is None:
            keys["type"] = "INTERNAL UNLISTED"
            keys |= more
        else:
            program, *arguments = handler(place)
            keys["server"] = program
            if arguments:
                keys["server_args"] = " ".join(arguments)
        lines = "".join(f"    {key} = {value}\n" for key, value in keys.items())
        file = place.folder / "xinetd.conf"
        file.write_text(f"service echo\n{{\n{lines}}}\n")
        pid = str(place.folder / "pid")
        flags = ["-dontfork", "-f", str(file), "-pidfile", pid]
        return [place.programs["xinetd"], *flags]

    return build


def openbsd_inetd(place: Place) -> Command:
    """Make openbsd-inetd with /bin/cat; its rate limits cannot be off, but out of reach."""
    if INETD_PID.exists():  # it would take the file from whoever runs, and remove it
        raise DidNotStartError(f"an inetd is running here: {INETD_PID} is there")
    file = place.folder / "inetd.conf"
    file.write_text(
        f"127.0.0.1:{place.port} stream tcp nowait.1000000 nobody /bin/cat cat\n"
    )
    return [place.programs["inetd"], "-i", "-R", "1000000", str(file)]


def tcpserver(place: Place) -> Command:
    """Make tcpserver with /bin/cat; no look-ups, no limit in effect."""
    flags = ["-RHl0", "-c", "1000", "-b", "1024", "-u", "65534", "-g", "65534"]
    return [
        place.programs["tcpserver"],
        *flags,
        "127.0.0.1",
        str(place.port),
        *cat(place),
    ]


def socat(buffer: int, address: str) -> Callable[[Place], Command]:
    """Make socat with an echo behind it: PIPE is its own, EXEC:/bin/cat a process.

    With more on its way than the pipe holds (64 KiB), PIPE must have a small buffer, the
    default of 8 KiB: with a large one the single process that writes and reads the pipe
    waits for itself, and the connection stands still.
    """

    def build(place: Place) -> Command:
        listen = f"TCP-LISTEN:{place.port},bind=127.0.0.1,backlog=1024"
        more = "fork,reuseaddr,su=nobody"
        return [place.programs["socat"], f"-b{buffer}", f"{listen},{more}", address]

    return build


def nginx_with(*more: str) -> Callable[[Place], Command]:
    """Make nginx with as many workers as a loop has, and the one folder.

    sendfile and tcp_nopush as Debian has them; connections enough for every scene.
    `more`: lines of its server's configuration.
    """

    def build(place: Place) -> Command:
        file = place.folder / "nginx.conf"
        error = place.folder / "error.log"
        temporary = "".join(
            f"    {name}_temp_path {place.folder / name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        lines = "".join(f"        {line}\n" for line in more)
        file.write_text(f"""\
daemon off;
user nobody nogroup;
worker_processes {LOOP_WORKERS};
worker_rlimit_nofile 8192;
pid {place.folder / "pid"};
error_log {error} crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests {KEPT_REQUESTS};
{temporary}    server {{
        listen 127.0.0.1:{place.port} backlog=1024;
        root {place.www};
{lines}    }}
}}
""")
        return [place.programs["nginx"], "-e", str(error), "-c", str(file)]

    return build


nginx = nginx_with()


def limit(handler: Callable[[Place], Command]) -> Callable[[Place], Command]:
    """Make the C program that does nothing but start a handler."""

    def build(place: Place) -> Command:
        return [place.programs["limit"], str(place.port), *handler(place)]

    return build
