"""Read a finger query and clean a finger answer (RFC 1288 2.3, 3.3).

The rule of the file: it is pure, and no byte of the peer leaves it but in a name that
matches the grammar below. A name becomes an argument of a program, so it is letters,
digits, `.`, `_` and `-` with no `-` in front: no path (CVE-2000-0915), no option, no
pattern (CVE-2001-1503), nothing a shell would care about.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LONGEST_LINE: Final = 512
"""Bytes of a query with its line end: fingerd's old buffer, never overrun again."""

_FIRST: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"
)
_LATER: Final = _FIRST | {"-"}
_LONGEST_NAME: Final = 32
_PRINTING: Final = frozenset(range(32, 127)) | {9}
_LAST_CONTROL: Final = 31
_DELETE: Final = 127
_TAB: Final = 9


class BadQuery(ValueError):  # noqa: N818  it is what the peer sent
    """The line is no query."""


class Query(NamedTuple):
    """What the peer asks: for details, about whom, and whether to ask elsewhere."""

    long: bool
    names: tuple[str, ...]
    forward: bool


def parse_query(line: bytes) -> Query:
    """Read the line, without its line end.

    RFC 1288 2.3: {Q1} `[/W|/W SP user]`, {Q2} `[/W SP][user]@host[@host]...`; a user
    without /W is what every client sends.
    """
    for byte in line:
        if (byte <= _LAST_CONTROL and byte != _TAB) or byte == _DELETE:
            # A NUL cuts the name for C and not for Python; the rest is for terminals.
            raise BadQuery("control bytes in the query")
    words = line.decode("latin-1").replace("\t", " ").split(" ")
    words = [word for word in words if word]
    long = bool(words) and words[0] in ("/W", "/w")
    names = tuple(words[1:] if long else words)
    return Query(long, names, any("@" in name for name in names))


def is_name(text: str) -> bool:
    """Tell whether this can be the name of a user at all."""
    return (
        0 < len(text) <= _LONGEST_NAME and text[0] in _FIRST and _LATER.issuperset(text)
    )


def clean(output: bytes, *, utf8: bool = False) -> bytes:
    """Leave of an answer what may go to a terminal: text, TAB and CRLF.

    A .plan is written by anybody and read in a terminal that obeys escape sequences
    (RFC 1288 3.3). CRLF is the line end of the protocol (2.2); programs write LF.
    """
    if utf8:
        text = output.decode("utf-8", "replace")
        kept = "".join(c for c in text if c in "\t\n" or c.isprintable())
        lines = kept.encode().split(b"\n")
    else:
        lines = [
            bytes(b for b in line if b in _PRINTING) for line in output.split(b"\n")
        ]
    if not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def shorten(answer: bytes, cap: int) -> bytes:
    """Cut a clean answer to `cap` bytes at most, behind a line where there is one."""
    if len(answer) <= cap:
        return answer
    lines, end, rest = answer[:cap].rpartition(b"\r\n")
    # One endless line: at least no half of a character.
    return lines + end if end else rest.decode("utf-8", "ignore").encode()
