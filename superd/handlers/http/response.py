"""Build the bytes of an answer (RFC 9110, RFC 9112 4).

The rule of the file: nothing of the peer goes into an answer unescaped, and nothing
about this machine goes into it at all: no version, no path, no traceback.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from superd.handlers.http import style

if TYPE_CHECKING:
    from collections.abc import Iterable

REASONS: Final = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_LAST_DAY: Final = 253402300799
"""9999-12-31T23:59:59Z: the form has four digits for a year (darkhttpd
CVE-2020-25691)."""


def date_of(moment: float) -> str:
    """Write a moment as IMF-fixdate (RFC 9110 5.6.7), whatever the locale."""
    return _date_of_second(int(min(max(moment, 0), _LAST_DAY)))


@lru_cache(maxsize=128)
def _date_of_second(second: int) -> str:
    t = time.gmtime(second)
    return (
        f"{DAYS[t.tm_wday]}, {t.tm_mday:02} {MONTHS[t.tm_mon - 1]} {t.tm_year:04}"
        f" {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )


def head_of(status: int, lines: bytes, *, now: float, keep: bool, minor: int) -> bytes:
    """Write the head of an answer: Date first, Connection last, where it is needed."""
    # An HTTP/1.0 client takes silence for the end (RFC 9112 9.3).
    end = b"\r\n" if keep and minor else _STAYS if keep else _ENDS
    return _first_lines(status, int(now)) + lines + end


_STAYS: Final = b"Connection: keep-alive\r\n\r\n"
_ENDS: Final = b"Connection: close\r\n\r\n"


@lru_cache(maxsize=32)
def _first_lines(status: int, second: int) -> bytes:
    text = f"HTTP/1.1 {status} {REASONS[status]}\r\nDate: {date_of(second)}\r\n"
    return text.encode("ascii")


def lines_of(fields: Iterable[tuple[str, str]], extra: Iterable[str] = ()) -> bytes:
    """Write the fields of an answer, each with its line end.

    `extra` has the operator's lines, for every answer alike.
    """
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    lines.append("X-Content-Type-Options: nosniff\r\n")
    lines += [f"{line}\r\n" for line in extra]
    return "".join(lines).encode("latin-1")


def page_of(status: int, text: str, link: str = "") -> bytes:
    """Write the small page that explains an answer without a file."""
    title = f"{status} {REASONS[status]}"
    sentence = escape(text[:1].upper() + text[1:])
    if link:
        sentence += f' <a href="{escape(link)}">{escape(link)}</a>'
    else:
        sentence += "."
    body = f"<h1>{title}</h1>\n<p>{sentence}</p>"
    return style.PAGE.format(title=title, style=style.PLAIN, body=body).encode()


def escape(text: str) -> str:
    """Make text harmless within HTML, in quotes as well."""
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("'", "&#39;")
    )
