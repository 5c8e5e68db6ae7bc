"""Collect what is wrong with a configuration, each with its place.

Nobody stops at the first problem: whoever finds one notes it here and goes on, so that
one run shows them all. `ConfigError` carries a text from a small parser up to somebody who
knows the place.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Path = tuple[str | int, ...]

MOST_SHOWN = 1000
"""More errors than this help nobody; the last line counts the rest."""

MOST_GUESSES = 50
"""Looking for a similar word costs a millisecond; a hostile file has 50 000."""

LONGEST_SHOWN = 60


class ConfigError(ValueError):
    """A value that is not acceptable; the text says what would be."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written; line 0 where it is in no file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One line for the operator."""

    place: Place
    key: str
    text: str

    def line(self, kind: str = "") -> str:
        """The whole line; kind is "warning" where it is one."""
        return visible(
            ": ".join(
                part for part in (str(self.place), kind, self.key, self.text) if part
            )
        )


@dataclass(slots=True)
class Problems:
    """Everything noted so far, and the order in which the files were read."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    noted: set[Problem] = field(default_factory=set)
    meant: set[Path] = field(default_factory=set)
    """Keys that were probably meant where an unknown one stands."""
    guesses: int = 0

    def error(self, place: Place, key: Path | str, text: str) -> None:
        """Note something that makes the configuration unusable."""
        self._note(self.errors, Problem(place, key_text(key), text))

    def warn(self, place: Place, key: Path | str, text: str) -> None:
        """Note something that works but is hardly meant."""
        self._note(self.warnings, Problem(place, key_text(key), text))

    def guess(self, word: str, known: Iterable[str]) -> str:
        """`; did you mean "x"?` where a known word looks like this one, or nothing."""
        near = self.nearest(word, known)
        return f'; did you mean "{near}"?' if near else ""

    def nearest(self, word: str, known: Iterable[str], least: float = 0.6) -> str:
        """The known word that looks most like this one, or nothing."""
        self.guesses += 1
        if self.guesses > MOST_GUESSES or len(word) > LONGEST_SHOWN:
            return ""
        near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=least)
        return near[0] if near else ""

    def error_lines(self) -> list[str]:
        """The errors, by file and line."""
        return self._lines(self.errors, "")

    def warning_lines(self, kind: str = "") -> list[str]:
        """The warnings, by file and line."""
        return self._lines(self.warnings, kind)

    def _note(self, notes: list[Problem], problem: Problem) -> None:
        # A wrong default is wrong for every service, and told once.
        if problem not in self.noted:
            self.noted.add(problem)
            notes.append(problem)

    def _lines(self, notes: list[Problem], kind: str) -> list[str]:
        rank = {name: number for number, name in enumerate(self.files)}
        ordered = sorted(
            notes,
            key=lambda note: (
                rank.get(note.place.file, len(rank)),
                note.place.line,
                note.place.column,
            ),
        )
        lines = [note.line(kind) for note in ordered[:MOST_SHOWN]]
        if len(ordered) > MOST_SHOWN:
            lines.append(f"and {len(ordered) - MOST_SHOWN} more")
        return lines


def key_text(key: Path | str) -> str:
    """A path as the operator reads it: services.echo.exec."""
    if isinstance(key, str):
        return key
    return ".".join(printable(part) for part in key if isinstance(part, str))


def printable(text: str) -> str:
    """Text without control characters and of bearable length."""
    shown = visible(text[: LONGEST_SHOWN + 1])
    return shown if len(text) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "..."


def visible(text: str) -> str:
    """Text with an escape for every character that does not show."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def show(value: object) -> str:
    """A value as the operator would write it, short enough for one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return printable(str(value))
        case str():
            return f"'{printable(value)}'"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"'{printable(str(value))}'"
