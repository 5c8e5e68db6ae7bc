"""Say how the servers are started that stand between a client and a web server.

The rule of the file is that of peers.py: every peer gets its best. A proxy has no log, no
access control and no filter, and it may ask for any port.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Command, Place

CACHE = "100M"


def origin_of(place: Place) -> str:
    """Name the web server behind, as a proxy or a relay is told of it."""
    return f"127.0.0.1:{place.origin}"


def superd_proxy(
    *, caches: bool = False, **service: object
) -> Callable[[Place], Command]:
    """Make superd's proxy; everything here is on an address that it would refuse."""

    def options(place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {"allow_private": True, "log": "none"}
        if place.origin:
            found["ports"] = [str(place.origin)]
        if caches:
            folder = place.folder / "cache"
            folder.mkdir()
            shutil.chown(folder, "nobody", "nogroup")
            found["cache"] = {"folder": str(folder), "size": CACHE}
        return found

    return peers.superd(handler="proxy", options=options, **service)


def superd_redirect(**service: object) -> Callable[[Place], Command]:
    """Make superd's relay."""

    def options(place: Place) -> dict[str, Any]:
        return {"to": origin_of(place)}

    return peers.superd(handler="redirect", options=options, **service)


def tinyproxy(place: Place) -> Command:
    """Make tinyproxy: a thread a connection, no ConnectPort is every port."""
    file = place.folder / "tinyproxy.conf"
    file.write_text(f"""\
User nobody
Group nogroup
Port {place.port}
Listen 127.0.0.1
Timeout 600
LogLevel Critical
MaxClients 1000
""")
    return [place.programs["tinyproxy"], "-d", "-c", str(file)]


def squid(*, caches: bool) -> Callable[[Place], Command]:
    """Make squid in one process; what it caches it keeps in memory.

    Its shared memory has the name of its service: another squid here is another service.
    """

    def build(place: Place) -> Command:
        # It reads its file, and writes its log, when it has become nobody.
        shutil.chown(place.folder, "nobody", "nogroup")
        file = place.folder / "squid.conf"
        file.write_text(f"""\
http_port 127.0.0.1:{place.port}
http_access allow all
{"cache_mem 100 MB" if caches else "cache deny all"}
cache_effective_user nobody
cache_effective_group nogroup
access_log none
cache_log {place.folder / "cache.log"}
cache_store_log none
logfile_rotate 0
pid_filename none
coredump_dir none
netdb_filename none
pinger_enable off
client_db off
shutdown_lifetime 0 seconds
max_filedescriptors 8192
""")
        name = f"bench{place.port}"
        return [place.programs["squid"], "-N", "-n", name, "-f", str(file)]

    return build


def socat(buffer: int) -> Callable[[Place], Command]:
    """Make socat as a relay: a process a connection."""
    return lambda place: peers.socat(buffer, f"TCP:{origin_of(place)}")(place)


def xinetd(place: Place) -> Command:
    """Make xinetd's own relay: a process a connection, which execs nothing."""
    host, _, port = origin_of(place).partition(":")
    return peers.xinetd(None, type="UNLISTED", redirect=f"{host} {port}")(place)


def web_server(place: Place) -> Command:
    """Make the web server behind: it lets caches keep what it says, and counts."""
    return peers.nginx_with("expires 1h;", f"location = {COUNT} {{ stub_status; }}")(
        place
    )


COUNT = "/count"
