"""Find the folder of a virtual host (RFC 9110 7.2).

The rule of the file: a name is one component below the root, in lower case, without its
port and the dot of a rooted name, and has been found to be a host before. What is served
is below that folder, and what leads out of it leads nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.http import files
from superd.handlers.http.refusal import Refused

if TYPE_CHECKING:
    from superd.handlers.http.request import Request
    from superd.handlers.http.target import Path

DEFAULT: Final = b"default"
"""Serves the hosts that have no folder, and requests without a host."""


def host_of(request: Request, path: Path) -> bytes:
    """Return the host that is meant; an absolute-form target's wins (RFC 9112 3.2.2)."""
    hosts = request.values(b"host")
    text = path.host or (hosts[0] if hosts else b"")
    if text.startswith(b"["):
        return text.partition(b"]")[0].lower() + b"]"
    return text.partition(b":")[0].rstrip(b".").lower()


def open_host(root: int, name: bytes, rules: files.Rules) -> int:
    """Open the folder of a host, as a root. Raises Refused."""
    for folder in (name, DEFAULT) if name else (DEFAULT,):
        try:
            return files.open_directory(root, [folder], rules, listed=False)
        except Refused as refused:
            if refused.status != 404:  # noqa: PLR2004
                raise
    raise Refused(404, "there is no such host")
