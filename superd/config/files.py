"""Bring the main file and its included files together.

Every file is read once. Nothing is decided here about a service but that there is one
of each name.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superd.config.document import Document, read_document
from superd.config.problems import Path, Place, Problems, show
from superd.config.source import Source, UnreadableError, read_source

if TYPE_CHECKING:
    from superd.config.identity import Situation

COMMAND_LINE = "command line"
MOST_FILES = 1000
MOST_LEVELS = 32
TOP = ("include", "log", "defaults", "services")


@dataclass(frozen=True, slots=True)
class Entry:
    """A service as it was written."""

    name: str
    document: Document
    data: Any

    @property
    def path(self) -> Path:
        """Where it stands in its file."""
        return ("services", self.name)

    @property
    def place(self) -> Place:
        """The place of its name."""
        return self.document.key_place(self.path)


@dataclass(slots=True)
class Gathered:
    """All files of a configuration."""

    main: Document | None = None
    paths: list[str] = field(default_factory=list)
    services: dict[str, Entry] = field(default_factory=dict)
    complete: bool = True


def gather_files(name: str, situation: Situation, problems: Problems) -> Gathered:
    """The main file and whatever it includes."""
    gathered = Gathered()
    main = _read(name, gathered, situation, problems)
    if main is None:
        return gathered
    gathered.main = main
    _take_services(main, gathered, problems)
    seen = {os.path.realpath(main.source.path)}
    for path, pattern in _patterns(main):
        for found in _matches(pattern, main, path, problems):
            real = os.path.realpath(found)
            if real in seen:
                continue
            seen.add(real)
            if len(seen) > MOST_FILES:
                place = main.value_place(path)
                problems.error(place, path, f"more than {MOST_FILES} files")
                return gathered
            document = _read(found, gathered, situation, problems)
            if document is not None:
                _refuse_other_keys(document, problems)
                _take_services(document, gathered, problems)
    return gathered


def gather_data(data: Any, folder: str, problems: Problems) -> Gathered:
    """A configuration that is not in a file: the command line's."""
    problems.files.append(COMMAND_LINE)
    source = Source(COMMAND_LINE, os.path.join(folder, COMMAND_LINE), "")
    document = Document(source, values={(): Place(COMMAND_LINE)})
    gathered = Gathered(main=document)
    if not isinstance(data, dict):
        problems.error(document.value_place(()), (), "expected a JSON object of keys")
        gathered.main = None
        return gathered
    _note_texts(data, (), document)
    document.data = data
    _take_services(document, gathered, problems)
    return gathered


def _note_texts(data: Any, path: Path, document: Document) -> None:
    if len(path) > MOST_LEVELS:
        return
    match data:
        case dict():
            for key, value in data.items():
                _note_texts(value, (*path, key), document)
        case list():
            for number, value in enumerate(data):
                _note_texts(value, (*path, number), document)
        case bool() | None:
            pass
        case _:
            document.texts[path] = str(data)


def _read(
    name: str, gathered: Gathered, situation: Situation, problems: Problems
) -> Document | None:
    problems.files.append(name)
    try:
        source = read_source(name)
    except UnreadableError as error:
        problems.error(Place(name, error.line, error.column), "", str(error))
        gathered.complete = False
        return None
    gathered.paths.append(source.path)
    if situation.root and source.writable_by_others:
        problems.warn(
            source.place(),
            "",
            "others than its owner may write to it, and so run programs as any user; "
            f"chmod go-w {name}",
        )
    document = read_document(source, problems)
    gathered.complete = gathered.complete and document is not None
    return document


def _patterns(main: Document) -> list[tuple[Path, str]]:
    """What to include; an include of the wrong type is noted by the model."""
    value = main.data.get("include")
    if isinstance(value, str):
        return [(("include",), value)]
    if not isinstance(value, list):
        return []
    return [
        (("include", number), pattern)
        for number, pattern in enumerate(value)
        if isinstance(pattern, str) and pattern
    ]


def _matches(pattern: str, main: Document, path: Path, problems: Problems) -> list[str]:
    """The files of one include, in order, named as the main file was."""
    whole = os.path.join(os.path.dirname(main.source.name), pattern)
    if glob.has_magic(pattern):
        beside = glob.escape(os.path.dirname(main.source.name))
        return sorted(glob.glob(os.path.join(beside, pattern)))
    if not os.path.lexists(whole):
        problems.error(
            main.value_place(path),
            path,
            f"no file {show(whole)}; a pattern such as superd.d/*.yaml may match none",
        )
        return []
    return [whole]


def _refuse_other_keys(document: Document, problems: Problems) -> None:
    for name in document.data:
        if name == "services" or document.is_spoiled((name,)):
            continue
        if name == "include":
            text = "an included file includes no further one; name it in the main file"
        elif name in TOP:
            text = f'"{name}" belongs in the main file; only "services" may stand here'
        else:
            guess = problems.guess(name, ["services"])
            text = f"unknown key{guess or '; an included file holds services only'}"
        problems.error(document.key_place((name,)), (name,), text)


def _take_services(document: Document, gathered: Gathered, problems: Problems) -> None:
    services = document.data.get("services")
    if services is None or document.is_spoiled(("services",)):
        return
    if not isinstance(services, dict):
        problems.error(
            document.value_place(("services",)),
            "services",
            f"expected services by name, got {show(services)}; "
            "for example {echo: {listen: 7007, handler: echo}}",
        )
        gathered.complete = False
        return
    for name, data in services.items():
        entry = Entry(name, document, data)
        if first := gathered.services.get(name):
            problems.error(
                entry.place,
                entry.path,
                f"a service of this name is at {first.place}; rename one of them",
            )
        else:
            gathered.services[name] = entry
