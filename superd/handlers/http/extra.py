"""Check the fields that the operator adds to answers.

The rule of the file: what would break an answer or contradict what httpd says of itself
is refused before the first request, not sent.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from superd.handlers.exits import SetupError
from superd.handlers.http.request import is_token, is_value

if TYPE_CHECKING:
    from collections.abc import Callable

_OURS: Final = frozenset(
    {
        "accept-ranges",
        "allow",
        "connection",
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
        "x-content-type-options",
    }
)
"""What httpd itself says, or what the framing of messages hangs on."""


@lru_cache(maxsize=16)
def check_headers(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines as they are sent. Raises SetupError."""
    checked = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not (colon and _is(is_token, name) and _is(is_value, value)):
            raise SetupError(f"option --headers: {line!r} is not NAME: VALUE")
        if name.lower() in _OURS:
            raise SetupError(f"option --headers: {name} is set by httpd itself")
        if name.lower() == "cache-control":
            raise SetupError("option --headers: use --cache-control for Cache-Control")
        checked.append(f"{name}: {value}")
    return tuple(checked)


@lru_cache(maxsize=16)
def check_cache_control(value: str) -> str:
    """Return the value of Cache-Control as it is sent. Raises SetupError."""
    stripped = value.strip(" \t")
    if stripped and not _is(is_value, stripped):
        raise SetupError(f"option --cache-control: {value!r} is no value of a field")
    return stripped


def _is(rule: Callable[[bytes], bool], text: str) -> bool:
    return text.isascii() and rule(text.encode("ascii"))
