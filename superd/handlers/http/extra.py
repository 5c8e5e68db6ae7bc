"""Check the fields that the operator adds to answers.

The rule of the file: what would break an answer or contradict what httpd says of itself
is refused before the first request, not sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.exits import SetupError
from superd.handlers.http.request import is_token, is_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_OURS: Final = frozenset(
    {
        "accept-ranges",
        "allow",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "keep-alive",
        "last-modified",
        "location",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
        "x-content-type-options",
    }
)
"""What httpd itself says, or what the framing of messages hangs on."""


def check_headers(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the lines as they are sent. Raises SetupError."""
    checked = []
    for name, text in pairs:
        value = text.strip(" \t")
        if not (_is(is_token, name) and _is(is_value, value)):
            raise SetupError(f"option --headers: {f'{name}: {text}'!r} is no field")
        if name.lower() in _OURS:
            raise SetupError(f"option --headers: {name} is set by httpd itself")
        if name.lower() == "cache-control":
            raise SetupError("option --headers: use --cache-control for Cache-Control")
        checked.append(f"{name}: {value}")
    return tuple(checked)


def _is(rule: Callable[[bytes], bool], text: str) -> bool:
    return text.isascii() and rule(text.encode("ascii"))
