"""Find what a request asks for: a status, its fields, and a page or a file.

The rule of the file: it sends nothing and waits for nobody; whoever has an answer closes
the file in it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http import files, media, response
from superd.handlers.http.refusal import Refused
from superd.handlers.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.http.request import Request

ALLOW: Final = "GET, HEAD, OPTIONS"
_ALLOWED: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_KNOWN: Final = frozenset({b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT"})
_HTML: Final = "text/html; charset=utf-8"
_EXPECTED: Final = frozenset({b"100-continue"})


class Settings(NamedTuple):
    """What the operator chose; `root` is a descriptor of the folder."""

    root: int
    index_names: tuple[bytes, ...]
    world_readable: bool
    head_timeout: float
    idle_timeout: float
    max_requests: int


class Answer(NamedTuple):
    """A status with its fields, and a page or an open file for a body."""

    status: int
    fields: Sequence[tuple[str, str]] = ()
    page: bytes = b""
    file: files.File | None = None


def answer_to(request: Request, settings: Settings) -> Answer:
    """Find what a request asks for. Raises Refused."""
    if request.options(b"expect") - _EXPECTED:
        raise Refused(417, "this expectation cannot be met")
    if request.method not in _ALLOWED:
        if request.method in _KNOWN:
            raise Refused(405, "files can be read here and nothing else")
        raise Refused(501, "this method is not known here")
    if request.method == b"OPTIONS" and request.target == b"*":
        return Answer(204, [("Allow", ALLOW)])
    path = parse_target(request.target)
    if request.method == b"OPTIONS":
        return Answer(204, [("Allow", ALLOW)])
    if path.hidden:
        raise Refused(404, "there is no such file")
    root, everybody = settings.root, settings.world_readable
    file = files.open_path(root, path.names, world_readable=everybody)
    if file is None:
        if not path.slash:
            where = path.as_directory().decode("ascii")
            text = f"The document is at {where}"
            fields = [("Location", where), ("Content-Type", _HTML)]
            return Answer(301, fields, response.page_of(301, text))
        name, file = files.open_index(
            root, path.names, settings.index_names, world_readable=everybody
        )
    elif path.slash:
        os.close(file.fd)
        raise Refused(404, "there is no such file")
    else:
        name = path.names[-1]
    return Answer(200, _describe(name, file), file=file)


def explain(refused: Refused) -> Answer:
    """Make the page that says why a request is refused."""
    fields = [("Content-Type", _HTML)]
    if refused.status == 405:  # noqa: PLR2004
        fields.append(("Allow", ALLOW))
    return Answer(
        refused.status, fields, response.page_of(refused.status, str(refused))
    )


def _describe(name: bytes, file: files.File) -> list[tuple[str, str]]:
    fields = [("Content-Type", media.type_of(name))]
    if file.mtime >= 0:
        # Never later than Date (RFC 9110 8.8.2.1).
        modified = response.date_of(min(file.mtime, time.time()))
        fields.append(("Last-Modified", modified))
    return fields
