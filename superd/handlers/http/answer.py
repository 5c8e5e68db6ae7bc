"""Find what a request asks for: a status, its fields, and a page or a file.

The rule of the file: it sends nothing and waits for nobody; whoever has an answer closes
the file in it.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http import (
    coding,
    conditional,
    files,
    folder,
    hosts,
    listing,
    media,
    ranges,
    response,
    style,
)
from superd.handlers.http.refusal import MALFORMED, Refused
from superd.handlers.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from superd.handlers.http.request import Request
    from superd.handlers.http.site import Site
    from superd.handlers.http.target import Path

ALLOW: Final = "GET, HEAD, OPTIONS"
_ALLOWED: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_KNOWN: Final = frozenset({b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT"})
_OWN_PAGE: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", style.PLAIN_POLICY),
)
_LISTING: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", style.TABLE_POLICY),
)
_UNKEPT: Final = ("Cache-Control", "max-age=0")
"""Of what nobody says how long it holds: a cache would guess (RFC 9111 4.2.2)."""
_VARY: Final = ("Vary", "Accept-Encoding")
_NOTHING: Final = conditional.Validators("", None)
_EXPECTED: Final = frozenset({b"100-continue"})
_SPECIAL: Final = conditional.CONDITIONS | {b"range"}
"""Fields without which a request for a file asks for all of it, whatever its state."""
_DESCRIBED: Final = 1024
"""Files whose fields are kept as they are sent."""
_LARGEST_PAGE: Final = 1 << 18
"""Bytes of an error page of the operator's."""


class Answer(NamedTuple):
    """A status with its fields, and a page or an open file for a body.

    With `pieces` the body is those of the file, each behind its head, and then the page.
    """

    status: int
    fields: Sequence[tuple[str, str]] = ()
    page: bytes = b""
    file: files.File | None = None
    pieces: Sequence[ranges.Piece] = ()
    lines: bytes = b""
    """The fields as they are sent, Content-Length too, where they are known already."""


class Later(NamedTuple):
    """An answer that takes its time; to be made once, or else a folder stays open."""

    make: Callable[[], Answer]


def answer_to(request: Request, site: Site, root: int) -> Answer | Later:
    """Find what a request asks for.

    Raises Refused where the request is malformed: the connection ends with that.
    """
    home = root
    try:
        _check_wish(request)
        if request.method == b"OPTIONS" and request.target == b"*":
            return Answer(204, [("Allow", ALLOW)])
        path = parse_target(request.target)
        if request.method == b"OPTIONS":
            return Answer(204, [("Allow", ALLOW)])
        if site.vhosts:
            home = hosts.open_host(root, hosts.host_of(request, path), site.rules)
        return _find(path, request, site, home)
    except Refused as refused:
        if refused.status in MALFORMED:
            raise
        return explain(refused, site, home)
    finally:
        if home != root:
            os.close(home)


def _check_wish(request: Request) -> None:
    if request.options(b"expect") - _EXPECTED:
        raise Refused(417, "this expectation cannot be met")
    if request.method not in _ALLOWED:
        if request.method in _KNOWN:
            raise Refused(405, "files can be read here and nothing else")
        raise Refused(501, "this method is not known here")


def explain(refused: Refused, site: Site, root: int | None = None) -> Answer:
    """Make the page that says why a request is refused: the operator's, or ours."""
    status = refused.status
    fields = [*refused.fields]
    if status == 405:  # noqa: PLR2004
        fields.append(("Allow", ALLOW))
    names = site.error_pages.get(status)
    if names and root is not None and (page := _own_page(root, names, site)):
        return Answer(
            status,
            [("Content-Type", media.type_of(names[-1], site.types)), *fields],
            page,
        )
    page = response.page_of(status, str(refused))
    return Answer(status, [*_OWN_PAGE, *fields], page)


def _own_page(root: int, names: Sequence[bytes], site: Site) -> bytes:
    """Read an error page of the operator's; empty where there is none."""
    try:
        file = files.open_path(root, names, site.rules)
    except Refused:
        return b""
    if file is None:
        return b""
    try:
        if file.content is not None:
            return file.content
        return os.pread(file.fd, _LARGEST_PAGE, 0)
    finally:
        file.close()


def _find(path: Path, request: Request, site: Site, root: int) -> Answer | Later:
    if path.hidden and not site.dotfiles:
        raise Refused(404, "there is no such file")
    names = path.names
    file = files.open_path(root, names, site.rules, site.endings)
    if file is None:
        if not path.slash:
            where = path.as_directory().decode("ascii")
            fields = [("Location", where), *_OWN_PAGE, _UNKEPT]
            return Answer(
                301, fields, response.page_of(301, "the document is at", where)
            )
        try:
            name, file = files.open_index(
                root, names, site.index_names, site.rules, site.endings
            )
        except Refused as refused:
            if refused.status != 404 or not site.listing:  # noqa: PLR2004
                raise
            return _list(path, request, site, root)
        names = (*names, name)
    elif path.slash:
        file.close()
        raise Refused(404, "there is no such file")
    opened, kept = [file], None
    try:
        best, encoding = file, ""
        if file.siblings:
            best, encoding = _compressed(file, names, request, site, root)
            if best is not file:
                opened.append(best)
        answer = _answer_with(best, encoding, names, request, site, bool(file.siblings))
        kept = answer.file
    finally:
        for one in opened:
            if one is not kept:
                one.close()
    return answer


def _compressed(
    file: files.File,
    names: Sequence[bytes],
    request: Request,
    site: Site,
    root: int,
) -> tuple[files.File, str]:
    """Open the file beside this one that the peer would rather have, if there is one.

    One that is older than the file is left alone: it has what the file had before.
    """
    accepted = request.values(b"accept-encoding")
    for ending in coding.choose(accepted, file.siblings) if accepted else ():
        path = [*names[:-1], names[-1] + ending]
        try:
            sibling = files.open_path(root, path, site.rules)
        except Refused:
            continue
        if sibling is None:
            continue
        if sibling.mtime_ns >= file.mtime_ns:
            return sibling, coding.NAMES[ending]
        sibling.close()
    return file, ""


def _list(path: Path, request: Request, site: Site, root: int) -> Answer | Later:
    """Show what is in a directory."""
    status = conditional.judge(request, _NOTHING, time.time())
    if status == 304:  # noqa: PLR2004
        return Answer(304)
    if status is not None:
        raise Refused(status, "a list of files has no state to compare with")
    return Later(partial(_listed, path, site, os.dup(root)))


def _listed(path: Path, site: Site, root: int) -> Answer:
    """Write the page of a directory; closes `root`."""
    try:
        entries, more = folder.read_folder(
            root, path.names, site.rules, hidden=site.dotfiles
        )
    except Refused as refused:
        return explain(refused, site, root)
    finally:
        os.close(root)
    order = listing.parse_order(path.query)
    page = listing.page_of(path.names, entries, order, more=more)
    return Answer(200, [*_LISTING, _UNKEPT], page)


def _answer_with(
    file: files.File,
    encoding: str,
    names: Sequence[bytes],
    request: Request,
    site: Site,
    varies: bool,  # noqa: FBT001
) -> Answer:
    """Send a file, a part of it, or word that the peer needs none of it."""
    known = site.described
    if (
        known is not None
        and file.content is not None
        and _SPECIAL.isdisjoint(request.fields)
    ):
        key = (*names, file.mtime_ns, file.size, file.inode, encoding, varies)
        if key not in known:
            _describe(file, encoding, names, site, key)
        return Answer(200, file=file, lines=known[key])
    now = time.time()
    there = conditional.validators_of(file.mtime_ns, file.size, file.inode, now)
    state = _state(there, names, site, varies=varies)
    status = conditional.judge(request, there, now)
    if status == 304:  # noqa: PLR2004
        # What RFC 9110 15.4.5 asks for, and no more: the peer has the rest.
        return Answer(304, state)
    if status is not None:
        raise Refused(status, "the file is not in the state that was asked for")
    fields = _fields(there, encoding, names, site, state)
    # 14.2: Range is for GET alone, and comes after every other condition.
    if request.method == b"GET":
        wanted = request.values(b"range")
        if len(wanted) == 1 and conditional.may_use_range(request, there, now):
            spans = ranges.parse_range(wanted[0], file.size)
            if spans is not None:
                return _answer_with_parts(file, spans, fields)
    return Answer(200, fields, file=file)


def _state(
    there: conditional.Validators, names: Sequence[bytes], site: Site, *, varies: bool
) -> list[tuple[str, str]]:
    """Say in which state the file is, and for how long: what a 304 says, too."""
    state = [("ETag", there.tag)]
    if control := site.cache_control.of(names):
        state.append(("Cache-Control", control))
    if varies:
        state.append(_VARY)
    return state


def _fields(
    there: conditional.Validators,
    encoding: str,
    names: Sequence[bytes],
    site: Site,
    state: list[tuple[str, str]],
) -> list[tuple[str, str]]:
    """Describe a file; the first field is its type."""
    kind = media.type_of(names[-1], site.types)
    fields = [("Content-Type", kind), ("Accept-Ranges", "bytes"), *state]
    if encoding:
        fields.append(("Content-Encoding", encoding))
    if there.modified is not None:
        fields.append(("Last-Modified", response.date_of(there.modified)))
    return fields


def _describe(
    file: files.File,
    encoding: str,
    names: Sequence[bytes],
    site: Site,
    key: tuple[object, ...],
) -> None:
    """Write the fields of a file whose content is kept: they hold as long as that."""
    known = site.described
    assert known is not None
    now = time.time()
    # What is kept has settled: its tag is strong.
    there = conditional.validators_of(file.mtime_ns, file.size, file.inode, now)
    state = _state(there, names, site, varies=bool(key[-1]))
    fields = _fields(there, encoding, names, site, state)
    fields.append(("Content-Length", str(file.size)))
    if len(known) >= _DESCRIBED:
        known.clear()
    known[key] = response.lines_of(fields, site.headers)


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
