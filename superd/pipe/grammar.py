"""Read a pipeline: programs with their words, joined by |, each on a host or here.

    cat data.txt | @hostB grep -v "^#" | @hostC:7041 sort -rn

The rule of the file: words are split and quoted as a shell does it (as shlex does), and
nothing else of a shell is there. What would be an operator or an expansion in one is an
error, not a word: `> file` that reaches grep as two arguments helps nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.pipeline.failure import USAGE, Failure
from superd.handlers.pipeline.joint import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLANK: Final = " \t\r\n"
_OPERATORS: Final = ";&<>()`$"
_ESCAPED: Final = '"\\'
"""What a backslash escapes between double quotes, as in shlex: elsewhere it stays."""


class StageText(NamedTuple):
    """One stage: its words, and its host (None: here)."""

    argv: list[str]
    host: Address | None


class _Word(NamedTuple):
    text: str
    is_host: bool


def parse(text: str, port: int) -> list[StageText]:
    """Split a pipeline into stages; Failure says where it is wrong."""
    stages: list[list[_Word]] = [[]]
    for word in _words(text):
        if word is None:
            stages.append([])
        else:
            stages[-1].append(word)
    return [_stage(words, number, port) for number, words in enumerate(stages, 1)]


def _stage(words: list[_Word], number: int, port: int) -> StageText:
    host = None
    if words and words[0].is_host:
        name = words.pop(0).text[1:]
        has_port = name.rpartition(":")[2].isdigit() and (
            not name.count(":") > 1 or "]" in name
        )
        try:
            host = parse_address(
                name if has_port else f"{name}:{port}", host_needed=True
            )
        except Failure:
            raise Failure(
                USAGE, f"stage {number}: @{name} is no host; write @HOST or @HOST:PORT"
            ) from None
    if not words:
        raise Failure(USAGE, f"stage {number}: no program; write PROGRAM ... | ...")
    argv = [word.text for word in words]
    if not argv[0]:
        raise Failure(USAGE, f"stage {number}: an empty word is no program")
    if any("\0" in word for word in argv):
        raise Failure(USAGE, f"stage {number}: a NUL byte is no argument")
    return StageText(argv, host)


def _words(text: str) -> Iterator[_Word | None]:
    """Give the words, and None for each | between them."""
    word: str | None = None
    is_host = False
    place = 0
    while place < len(text):
        char = text[place]
        if char in _BLANK or char == "|":
            if word is not None:
                yield _Word(word, is_host)
            word = None
            if char == "|":
                yield None
            place += 1
            continue
        if char in _OPERATORS:
            raise Failure(
                USAGE,
                f"character {place + 1}: {char} is of a shell, and there is "
                "none; as part of a word, put it in quotes",
            )
        if word is None:
            word, is_host = "", char == "@"
        piece, place = _piece(text, place)
        word += piece
    if word is not None:
        yield _Word(word, is_host)


def _piece(text: str, place: int) -> tuple[str, int]:
    """Read one character, or what is quoted; returns it and the place after it."""
    char = text[place]
    if char == "\\":
        if place + 1 == len(text):
            raise Failure(USAGE, "a backslash at the end escapes nothing")
        return text[place + 1], place + 2
    if char not in "'\"":
        return char, place + 1
    piece, start = "", place
    place += 1
    while place < len(text) and text[place] != char:
        if (
            char == '"'
            and text[place] == "\\"
            and text[place + 1 : place + 2] in (*_ESCAPED,)
        ):
            place += 1
        piece += text[place]
        place += 1
    if place == len(text):
        raise Failure(USAGE, f"character {start + 1}: a {char} that is not closed")
    return piece, place + 1
