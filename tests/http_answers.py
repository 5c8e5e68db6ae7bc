"""Read the answers of an HTTP server as a strict peer would: a byte too many is a fault.

Nothing here knows httpd: what is read may come from any server.
"""

from __future__ import annotations

import re
from typing import NamedTuple

STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Za-z][A-Za-z -]*")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")


class Answered(NamedTuple):
    """One answer; the names of its fields are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


def answers_in(stream, methods=()):
    """Cut what a server sent into answers; `methods` tells which have no body."""
    found = []
    while stream:
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        answer, stream = _first_in(stream, method)
        found.append(answer)
    return found


def the_answer_in(stream, method="GET"):
    """Return the only answer; a second one, or a byte after it, is a fault."""
    found = answers_in(stream, [method])
    assert len(found) == 1, stream
    return found[0]


def _first_in(stream, method):
    head, end, rest = stream.partition(b"\r\n\r\n")
    assert end, f"no whole head: {stream!r}"
    line, *lines = head.split(b"\r\n")
    matched = STATUS_LINE.fullmatch(line)
    assert matched, f"no status line: {line!r}"
    fields = {}
    for text in lines:
        parts = FIELD.fullmatch(text)
        assert parts, f"no field: {text!r}"
        name = parts[1].decode().lower()
        assert name not in fields, f"twice: {text!r}"
        fields[name] = parts[2].decode("latin-1").strip()
    status = int(matched[1])
    if status < 200 or status in (204, 304):
        assert "content-length" not in fields, stream
        return Answered(status, fields, b""), rest
    if method == "HEAD":
        return Answered(status, fields, b""), rest
    size = int(fields["content-length"])
    assert len(rest) >= size, f"{size} bytes announced: {stream!r}"
    return Answered(status, fields, rest[:size]), rest[size:]
