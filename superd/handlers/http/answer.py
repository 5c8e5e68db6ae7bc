"""Find what a request asks for: a status, its fields, and a page or a file.

The rule of the file: it sends nothing and waits for nobody; whoever has an answer closes
the file in it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http import (
    conditional,
    files,
    folder,
    listing,
    media,
    ranges,
    response,
)
from superd.handlers.http.refusal import Refused
from superd.handlers.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.http.request import Request
    from superd.handlers.http.target import Path

ALLOW: Final = "GET, HEAD, OPTIONS"
_ALLOWED: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_KNOWN: Final = frozenset({b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT"})
_HTML: Final = "text/html; charset=utf-8"
_NOTHING: Final = conditional.Validators("", None)
_EXPECTED: Final = frozenset({b"100-continue"})


class Settings(NamedTuple):
    """What the operator chose; `root` is a descriptor of the folder."""

    root: int
    index_names: tuple[bytes, ...]
    world_readable: bool
    head_timeout: float
    idle_timeout: float
    max_requests: int
    cache_control: str = ""
    headers: tuple[str, ...] = ()
    """Lines for every answer: `Name: value`, checked."""
    dotfiles: bool = False
    listing: bool = False


class Answer(NamedTuple):
    """A status with its fields, and a page or an open file for a body.

    With `pieces` the body is those of the file, each behind its head, and then the page.
    """

    status: int
    fields: Sequence[tuple[str, str]] = ()
    page: bytes = b""
    file: files.File | None = None
    pieces: Sequence[ranges.Piece] = ()


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
    if path.hidden and not settings.dotfiles:
        raise Refused(404, "there is no such file")
    root, everybody = settings.root, settings.world_readable
    file = files.open_path(root, path.names, world_readable=everybody)
    if file is None:
        if not path.slash:
            where = path.as_directory().decode("ascii")
            text = f"The document is at {where}"
            fields = [("Location", where), ("Content-Type", _HTML)]
            return Answer(301, fields, response.page_of(301, text))
        try:
            name, file = files.open_index(
                root, path.names, settings.index_names, world_readable=everybody
            )
        except Refused as refused:
            if refused.status != 404 or not settings.listing:  # noqa: PLR2004
                raise
            return _list(path, request, settings)
    elif path.slash:
        os.close(file.fd)
        raise Refused(404, "there is no such file")
    else:
        name = path.names[-1]
    try:
        answer = _answer_with(file, media.type_of(name), request, settings)
    except BaseException:
        os.close(file.fd)
        raise
    if answer.file is None:
        os.close(file.fd)
    return answer


def explain(refused: Refused) -> Answer:
    """Make the page that says why a request is refused."""
    fields = [("Content-Type", _HTML), *refused.fields]
    if refused.status == 405:  # noqa: PLR2004
        fields.append(("Allow", ALLOW))
    return Answer(
        refused.status, fields, response.page_of(refused.status, str(refused))
    )


def _list(path: Path, request: Request, settings: Settings) -> Answer:
    """Show what is in a directory."""
    status = conditional.judge(request, _NOTHING, time.time())
    if status == 304:  # noqa: PLR2004
        return Answer(304)
    if status is not None:
        raise Refused(status, "a list of files has no state to compare with")
    entries, more = folder.read_folder(
        settings.root,
        path.names,
        world_readable=settings.world_readable,
        hidden=settings.dotfiles,
    )
    order = listing.parse_order(path.query)
    page = listing.page_of(path.names, entries, order, more=more)
    fields = [("Content-Type", _HTML), ("Content-Security-Policy", listing.POLICY)]
    return Answer(200, fields, page)


def _answer_with(
    file: files.File, kind: str, request: Request, settings: Settings
) -> Answer:
    """Send a file, a part of it, or word that the peer needs none of it."""
    now = time.time()
    there = conditional.validators_of(file.mtime_ns, file.size, file.inode, now)
    state = [("ETag", there.tag)]
    if settings.cache_control:
        state.append(("Cache-Control", settings.cache_control))
    status = conditional.judge(request, there, now)
    if status == 304:  # noqa: PLR2004
        # What RFC 9110 15.4.5 asks for, and no more: the peer has the rest.
        return Answer(304, state)
    if status is not None:
        raise Refused(status, "the file is not in the state that was asked for")
    fields = [("Content-Type", kind), ("Accept-Ranges", "bytes"), *state]
    if there.modified is not None:
        fields.append(("Last-Modified", response.date_of(there.modified)))
    # 14.2: Range is for GET alone, and comes after every other condition.
    if request.method == b"GET":
        wanted = request.values(b"range")
        if len(wanted) == 1 and conditional.may_use_range(request, there, now):
            spans = ranges.parse_range(wanted[0], file.size)
            if spans is not None:
                return _answer_with_parts(file, spans, fields)
    return Answer(200, fields, file=file)


def _answer_with_parts(
    file: files.File, spans: Sequence[ranges.Span], fields: list[tuple[str, str]]
) -> Answer:
    """Send the pieces that were found; `fields` begin with the type of the file."""
    if not spans:
        raise Refused(
            416,
            "the file is shorter than that",
            fields=(("Content-Range", f"bytes */{file.size}"),),
        )
    if len(spans) == 1:
        start, end = spans[0]
        fields.append(("Content-Range", ranges.content_range(spans[0], file.size)))
        piece = ranges.Piece(b"", start, end - start)
        return Answer(206, fields, file=file, pieces=(piece,))
    # No file has 128 bits of chance in it, so that no part can end another.
    boundary = os.urandom(16).hex()
    pieces, tail = ranges.multipart(spans, file.size, fields[0][1], boundary)
    fields[0] = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Answer(206, fields, tail, file, pieces)
