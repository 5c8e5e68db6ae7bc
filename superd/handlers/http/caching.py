"""Find the Cache-Control of a file by its path.

The rule of the file: the first pattern that fits counts. A pattern without a slash is
for names, one with a slash for whole paths, in both `*` is for any text, slashes too.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

from superd.handlers.exits import SetupError
from superd.handlers.http.request import is_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class CacheControl:
    """The patterns and what is said of the files that they fit."""

    __slots__ = ("_everything", "_patterns")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Take the pairs of pattern and value. Raises SetupError."""
        self._patterns: list[tuple[re.Pattern[str], bool, str]] = []
        self._everything = ""
        for pattern, text in pairs:
            value = text.strip(" \t")
            if not (value.isascii() and is_value(value.encode("ascii"))):
                raise SetupError(
                    f"option --cache-control: {text!r} is no value of a field"
                )
            if pattern == "*":
                # The usual one: nothing to match, and nothing behind it counts.
                self._everything = value
                break
            whole = "/" in pattern
            self._patterns.append((re.compile(translate(pattern)), whole, value))

    def of(self, names: Sequence[bytes]) -> str:
        """Return the value for the file of this path; empty where none is said."""
        if not self._patterns or not names:
            return self._everything
        words = [name.decode("utf-8", "replace") for name in names]
        path = "/" + "/".join(words)
        for pattern, whole, value in self._patterns:
            if pattern.match(path if whole else words[-1]):
                return value
        return self._everything
