"""Say in the operator's words why a file is not YAML, and what would be right.

The parser names its own grammar ("expected the node content, but found ':'"). The line
it stopped at nearly always shows one of a dozen habits; those are looked for, in order.
"""

from __future__ import annotations

import bisect
import re
import sys
from typing import TYPE_CHECKING

from superd.config.problems import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

Extent = tuple[int, int, int, int]
"""From row and column to row and column: where a quoted text stands."""

TAB = "a tab stands here; use spaces, tabs are for text in quotes only"
QUOTE = "quote it"
ESCAPE = 'a "\\" in double quotes starts an escape; write "\\\\" or single quotes'
ENDS_INSIDE = 'the file ends inside of a list or a mapping; a "]" or "}" is missing'
NO_CHARACTER = "an escape that is no character; delete it"

BLOCK = 'after "|" or ">" the text begins on the next line, indented by spaces'

BAD_ESCAPE = re.compile(
    r"\\(?:u|U0000)[dD][89A-Fa-f][0-9A-Fa-f]{2}|\\U(?!000|0010)[0-9A-Fa-f]{8}"
)
LONE_PORT = re.compile(r"\[:[0-9]+\]$")

STAR_PORT = re.compile(r"""(?<!["'\w])\*(?::\w+|(?=[\s,\]}]|$))""")
BRACKETED = re.compile(
    r"""(?<!["'\w])\[[0-9A-Fa-f.:%]*::?[0-9A-Fa-f.:%\w]*\](?::\w+)?"""
)
COLON_WORD = re.compile(
    r"""(?<=[\[,{:\s])(:{1,2}[0-9A-Fa-f]*[0-9A-Fa-f:.]*)(?=[\s,\]}]|$)"""
)
START = re.compile(r"""(?:^|[\s\[,{])([@`%][^\s,\]}]*)""")
TWO_COLONS = re.compile(r"""^\s*(?:-\s+)?[\w.-]+\s*:\s+([^\s"'].*:(?:\s.*)?)$""")


def explain(text: str, error: Exception) -> tuple[int, int, str]:
    """Line, column and sentence for a parser's error."""
    mark = getattr(error, "problem_mark", None)
    if mark is None or "invalid Unicode" in str(error):
        return (*_bad_escape(text), NO_CHARACTER)
    lines = text.split("\n")
    row = min(mark.line, len(lines) - 1)
    line = lines[row].rstrip("\r")
    column = mark.column + 1
    problem = str(getattr(error, "problem", "") or "")
    context = str(getattr(error, "context", "") or "")
    began = getattr(error, "context_mark", None)
    start = (row + 1, column) if began is None else (began.line + 1, began.column + 1)

    if "\\t" in problem or line[mark.column : mark.column + 1] == "\t":
        return row + 1, column, TAB
    if "quoted scalar" in context:
        if "escape" in problem or "hexadecimal" in problem:
            return row + 1, column, ESCAPE
        return (*start, f"the quote opened on line {start[0]} is not closed")
    if "could not find expected ':'" in problem:
        bare = printable(lines[start[0] - 1].strip())
        return (*start, f'no ":" after "{bare}"; write "key: value" or "- item"')
    if found := _about_addresses(line):
        return row + 1, found[0], found[1]
    if "<stream end>" in problem or "end of stream" in problem:
        return (*start, ENDS_INSIDE)
    if "flow" in context and "',' or" in problem:
        kind, sign = ("list", "]") if "sequence" in context else ("mapping", "}")
        return (
            *start,
            f'this {kind} is not closed with "{sign}", or a comma is missing in it',
        )
    return row + 1, column, _about_line(line, problem, context)


def stray_tab(text: str, scalars: Sequence[Extent]) -> tuple[int, int, str] | None:
    """The first tab outside of quoted text and comments, as `explain` would tell it.

    libyaml takes a tab between words and the Python parser does not.
    """
    if "\t" not in text:
        return None
    for row, line in enumerate(text.split("\n")):
        column = line.find("\t")
        while column >= 0:
            if not _inside(row, column, scalars):
                if _in_comment(row, line[:column], scalars):
                    break
                return row + 1, column + 1, TAB
            column = line.find("\t", column + 1)
    return None


def _inside(row: int, column: int, scalars: Sequence[Extent]) -> bool:
    """Whether a place is inside of quoted text; the extents are in order."""
    at = bisect.bisect_right(scalars, (row, column, sys.maxsize, 0)) - 1
    return at >= 0 and (row, column) < scalars[at][2:]


def _in_comment(row: int, before: str, scalars: Sequence[Extent]) -> bool:
    return any(
        not _inside(row, found.start(), scalars)
        for found in re.finditer(r"(?:^|(?<=[ \t]))#", before)
    )


def _bad_escape(text: str) -> tuple[int, int]:
    """Where the first escape stands that names no character."""
    found = BAD_ESCAPE.search(text)
    before = text[: found.start()] if found else ""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _about_addresses(line: str) -> tuple[int, str] | None:
    """Column and sentence for an address or word that YAML cannot take unquoted."""
    shown = line.split(" #", maxsplit=1)[0]
    if found := STAR_PORT.search(shown):
        text = f'a word cannot begin with "*"; {QUOTE}: "{found[0]}"'
        return found.start() + 1, text
    if (found := BRACKETED.search(shown)) and not LONE_PORT.match(found[0]):
        return (
            found.start() + 1,
            f'"[" begins a list; if it is an IPv6 address, {QUOTE}: "{found[0]}"',
        )
    found = COLON_WORD.search(shown)
    if found and (found[1].strip(":") or found[1] == "::"):
        return (
            found.start(1) + 1,
            f'a word in [ ] cannot begin with ":"; {QUOTE}: "{found[1]}"',
        )
    if found := START.search(shown):
        word = printable(found[1])
        return (
            found.start(1) + 1,
            f'a word cannot begin with "{word[0]}"; {QUOTE}: "{word}"',
        )
    return None


def _about_line(line: str, problem: str, context: str) -> str:
    if "mapping values are not allowed" in problem:
        if found := TWO_COLONS.match(line):
            return (
                f'a second ": " in one line; begin a new line, or quote the text: '
                f'"{printable(found[1])}"'
            )
        return (
            "no key can stand here; indent it as the keys beside it, "
            'or the line above lacks its ":"'
        )
    if "sequence entries are not allowed" in problem:
        return 'a list with "- " begins on the line below its key'
    if "undefined tag handle" in problem or "tag" in context:
        return 'a word cannot begin with "!", that is a tag; quote it'
    if "alias" in context or "anchor" in context:
        return 'a word cannot begin with "*" or "&"; quote it'
    if "block scalar" in context:
        return BLOCK
    if "incompatible YAML" in problem or "directive" in context:
        return 'a "%" directive; delete it, or quote the text'
    if "<document start>" in problem:
        return "text after the end; indent it, or put quotes around all of the value"
    if "<block end>" in problem or "expected key" in problem:
        return "this does not fit the lines above; check indentation, quotes, brackets"
    return "not readable as YAML here; check indentation, quotes and brackets"
