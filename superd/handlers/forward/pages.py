"""Say why a request was not passed on: a status, a page, and a field for programs.

The rule of the file: a page shows the reason and the address that was asked for, escaped,
and nothing else of the request: an error page that echoed credentials was CVE-2025-62168.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from superd.handlers.http import style
from superd.handlers.http.refusal import Refused
from superd.handlers.http.response import REASONS as PLAIN_REASONS
from superd.handlers.http.response import date_of, escape

if TYPE_CHECKING:
    from collections.abc import Iterable

REASONS: Final = {
    **PLAIN_REASONS,
    407: "Proxy Authentication Required",
    429: "Too Many Requests",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    508: "Loop Detected",
}
"""508 is RFC 5842 7.2's, which is what an infinite loop of proxies is."""

ERRORS: Final = {
    400: "http_request_error",
    401: "http_request_denied",
    403: "http_request_denied",
    405: "http_request_error",
    407: "http_request_denied",
    408: "http_request_error",
    413: "http_request_error",
    414: "http_request_error",
    417: "http_request_error",
    431: "http_request_error",
    500: "proxy_internal_error",
    501: "http_request_error",
    502: "http_protocol_error",
    503: "proxy_internal_error",
    504: "http_response_timeout",
    505: "http_request_error",
    508: "proxy_loop_detected",
}
"""Proxy error types of RFC 9209 2.3, where the refusal names none itself."""

NO_ERROR: Final = "-"
"""Nothing went wrong: the answer is just what was asked for."""
_PLAIN_WORD: Final = re.compile(r"^[a-z]+(?= )")
"""The name of a host is not to be written with a capital."""
_URL_MOST: Final = 500
"""Characters of an address on a page."""


class Failed(Refused):
    """A request that could not be carried out, and which error of RFC 9209 that is."""

    def __init__(
        self, status: int, problem: str, error: str = "", detail: str = ""
    ) -> None:
        super().__init__(status, problem, detail=detail)
        self.error = error


def page_of(refused: Refused, url: bytes, name: bytes) -> tuple[bytes, bytes]:
    """Return the fields' lines, without Date and Connection, and the page."""
    status = refused.status
    title = f"{status} {REASONS[status]}"
    text = str(refused)
    sentence = escape(_PLAIN_WORD.sub(lambda found: found[0].title(), text))
    lines = [f"<h1>{title}</h1>", f"<p>{sentence}.</p>"]
    if url:
        shown = url.decode("ascii", "replace")
        if len(shown) > _URL_MOST:
            shown = shown[:_URL_MOST] + " ..."
        lines.append(f"<p>The address asked for: <code>{escape(shown)}</code></p>")
    lines.append(f"<p>This is the proxy {escape(name.decode('ascii'))}.</p>")
    page = style.PAGE.format(
        title=title, style=style.PLAIN, body="\n".join(lines)
    ).encode()
    fields = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(page))),
        ("Content-Security-Policy", style.PLAIN_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", proxy_status(refused, name)),
        *refused.fields,
    ]
    return lines_of(fields), page


def proxy_status(refused: Refused, name: bytes) -> str:
    """Spell the field Proxy-Status (RFC 9209 2): who failed, at what, and why."""
    error = getattr(refused, "error", "") or ERRORS[refused.status]
    told = "" if error == NO_ERROR else f"; error={error}"
    # A string of RFC 8941 3.3.3.
    details = "".join(
        ("\\" + c if c in '"\\' else c) if " " <= c <= "~" else "?"
        for c in str(refused)
    )
    return f'{name.decode("ascii")}{told}; details="{details}"'


def lines_of(fields: Iterable[tuple[str, str]]) -> bytes:
    """Write fields, each with its line end."""
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


def head_of(status: int, lines: bytes, *, keep: bool) -> bytes:
    """Write the head of an answer that is ours."""
    first = f"HTTP/1.1 {status} {REASONS[status]}\r\nDate: {date_of(time.time())}\r\n"
    end = b"\r\n" if keep else b"Connection: close\r\n\r\n"
    return first.encode("ascii") + lines + end
