"""Read YAML into plain data that remembers where everything was written.

Built from the parser's events rather than from its nodes: an anchor, an alias, a tag, a
second document and the thirty-third level are seen as they come, before anything grows
or recurs. Whatever is wrong is noted and spoils its own value only; a spoiled value is
not complained about again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from superd.config.loaders import LOADER, PYTHON_LOADER
from superd.config.problems import ConfigError, Path, Place, Problems, printable
from superd.config.scalars import resolve
from superd.config.yamltext import BLOCK, explain, stray_tab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.config.source import Source

MOST_LEVELS = 32

# The Python parser lets chr() refuse \U00110000 with a bare ValueError, and both
# libraries have let other errors of their own through.
NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)

PERCENT = 'a "%" directive; delete it, or quote the text'
NO_WORD = "a key is one word, not a list, a mapping or an alias"
BLOCK_HEAD = re.compile(r"[|>][-+1-9]*(?=[ \t\r]|$)")
DIRECTIVE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*%")


@dataclass(slots=True)
class Document:
    """The data of one file and the place of every key and value in it."""

    source: Source
    data: dict[str, Any] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    spoiled: set[Path] = field(default_factory=set)

    def key_place(self, path: Path) -> Place:
        """Where the key was written, or the nearest thing around it."""
        while path:
            if place := self.keys.get(path) or self.values.get(path):
                return place
            path = path[:-1]
        return self.values.get(()) or self.source.place()

    def value_place(self, path: Path) -> Place:
        """Where the value was written, or the nearest thing around it."""
        while path and isinstance(path[-1], int) and path not in self.values:
            # One item where a list may be: it stands where the list would.
            path = path[:-1]
        return self.values.get(path) or self.key_place(path)

    def is_spoiled(self, path: Path) -> bool:
        """Whether this value, or one around it, was complained about already."""
        return bool(self.spoiled) and any(
            path[:length] in self.spoiled for length in range(len(path) + 1)
        )


@dataclass(slots=True)
class _Level:
    """A mapping or list that is being read; `lost` where its content is not wanted."""

    path: Path
    items: dict[str, Any] | list[Any]
    lost: bool
    key: str | None = None
    key_lost: bool = False


class _Builder:
    """Takes the events of one file, one by one."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.notes: list[tuple[Place, Path, str]] = []
        self.lines = document.source.text.split("\n")
        self.dead = False
        self.too_deep = False
        self.levels: list[_Level] = []
        self.root: Any = None
        self.documents = 0
        self.whole_scalars: list[tuple[int, int, int, int]] = []

    def take(self, event: Any) -> None:
        """Take one event; once `dead`, only note where quoted text stands."""
        if self.dead:
            if isinstance(event, yaml.ScalarEvent):
                self._note_extent(event)
            return
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self._complain(
                        event, (), "a second document begins; a file holds one"
                    )
                    self.dead = True
            case yaml.MappingStartEvent():
                self._open(event, {})
            case yaml.SequenceStartEvent():
                self._open(event, [])
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self.levels.pop()
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                self._alias(event)

    def _open(self, event: Any, items: dict[str, Any] | list[Any]) -> None:
        if self._wants_key():
            self._complain(event, (), NO_WORD)
            self.dead = True
            return
        path, lost = self._next(event)
        if len(self.levels) == MOST_LEVELS:
            self._complain(event, path, f"more than {MOST_LEVELS} levels deep")
            self.dead = self.too_deep = True
            return
        self._look_at_properties(event, path)
        self._put(items)
        self.levels.append(_Level(path, items, lost))

    def _alias(self, event: Any) -> None:
        if self._wants_key():
            self._complain(event, (), NO_WORD)
            self.dead = True
            return
        path, _ = self._next(event)
        self._complain(
            event,
            path,
            f'"*{printable(str(event.anchor))}" is an alias, and those are not read'
            '; write the value out, or quote it if it is text, as in "*:80"',
        )
        self._put(None)

    def _note_extent(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        if event.style in ("'", '"'):
            self.whole_scalars.append((start.line, start.column, end.line, end.column))
        elif event.style in ("|", ">"):
            self.whole_scalars.append((start.line + 1, 0, end.line, end.column))
            line = self.lines[start.line]
            if BLOCK_HEAD.match(line, start.column) is None:
                # libyaml reads on, the Python parser does not.
                self._complain(event, (), BLOCK)
                self.dead = True

    def _scalar(self, event: Any) -> None:
        self._note_extent(event)
        if self._wants_key():
            self._key(event)
            return
        path, lost = self._next(event)
        self._look_at_properties(event, path)
        value: Any = event.value
        try:
            _check_characters(event.value)
            if not event.style:
                value = resolve(event.value)
        except ConfigError as error:
            self._complain(event, path, str(error))
            value = None
        if not lost:
            self.document.texts[path] = event.value
        if value is None and not event.value and path:
            # The parsers disagree where nothing stands: point at its key.
            self.document.values.pop(path, None)
        self._put(value)

    def _key(self, event: Any) -> None:
        level = self.levels[-1]
        level.key = event.value
        path = (*level.path, event.value)
        place = self._place(event)
        level.key_lost = level.lost
        if level.lost:
            return
        if first := self.document.keys.get(path):
            text = f"written twice; the first one is at {first}, delete one of them"
            self.notes.append((place, path, text))
            level.key_lost = True
            return
        self.document.keys[path] = place
        if not event.value and not event.style:
            self._complain(event, path, 'no key before the ":"; write one')
            level.key_lost = True
        if event.value == "<<" and not event.style:
            self._complain(
                event, path, 'merge keys are not read; put common keys in "defaults"'
            )
            level.key_lost = True
        try:
            _check_characters(event.value)
        except ConfigError as error:
            self._complain(event, path, str(error))
            level.key_lost = True
        self._look_at_properties(event, path)

    def _wants_key(self) -> bool:
        level = self.levels[-1] if self.levels else None
        return level is not None and isinstance(level.items, dict) and level.key is None

    def _next(self, event: Any) -> tuple[Path, bool]:
        """The path of the value that comes, and whether nobody wants it."""
        if not self.levels:
            self.document.values[()] = self._place(event)
            return (), False
        level = self.levels[-1]
        if isinstance(level.items, list):
            path, lost = (*level.path, len(level.items)), level.lost
        else:
            path, lost = (*level.path, level.key or ""), level.key_lost
        if not lost:
            self.document.values[path] = self._place(event)
        return path, lost

    def _put(self, value: Any) -> None:
        if not self.levels:
            self.root = value
            return
        level = self.levels[-1]
        if isinstance(level.items, list):
            level.items.append(value)
        else:
            if not level.key_lost:
                level.items[level.key or ""] = value
            level.key = None

    def _look_at_properties(self, event: Any, path: Path) -> None:
        if event.anchor is not None:
            self._complain(
                event,
                path,
                f'"&{printable(event.anchor)}" is an anchor, and those are not read'
                "; delete it, or quote the value if it is text",
            )
        if event.tag is not None:
            self._complain(
                event,
                path,
                f'"{printable(_tag(event.tag))}" is a tag, and those are not read'
                "; delete it, or quote the value if it is text",
            )

    def _complain(self, event: Any, path: Path, text: str) -> None:
        self.notes.append((self._place(event), path, text))
        self.document.spoiled.add(path)

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return self.document.source.place(mark.line + 1, mark.column + 1)


def read_document(
    source: Source, problems: Problems, loader: Any = LOADER
) -> Document | None:
    """The data of a file, or None where it has none; notes what is wrong with it."""
    document = Document(source)
    if found := DIRECTIVE.match(source.text):
        line = source.text.count("\n", 0, found.end()) + 1
        problems.error(source.place(line, 1), (), PERCENT)
        return None
    builder = _Builder(document)
    text, end = source.text, None
    try:
        for event in _events(text, loader):
            builder.take(event)
            if builder.too_deep:
                end = event.start_mark
                break
    except NO_YAML as error:
        if loader is not PYTHON_LOADER:
            # libyaml's columns and words differ, and so do its limits (0.2.6 takes
            # no more than 1,000 levels): a file must not read differently where
            # libyaml is missing.
            return read_document(source, problems, PYTHON_LOADER)
        # What was noted before it depends on how far the parser looks ahead.
        line, column, sentence = explain(text, error)
        problems.error(source.place(line, column), (), sentence)
        return None
    if end is not None:
        lines = text.split("\n")
        text = "\n".join([*lines[: end.line], lines[end.line][: end.column]])
    if tab := stray_tab(text, builder.whole_scalars):
        problems.error(source.place(*tab[:2]), (), tab[2])
        return None
    for place, path, sentence in builder.notes:
        problems.error(place, path, sentence)
    if builder.dead:
        return None
    if not isinstance(builder.root, dict):
        if not document.spoiled:
            _refuse_top(builder, document, problems)
        return None
    document.data = builder.root
    return document


def _refuse_top(builder: _Builder, document: Document, problems: Problems) -> None:
    keys = 'write keys at the top, such as "services:"'
    if builder.root is None:
        problems.error(document.source.place(), (), f"is empty; {keys}")
        return
    what = "a list" if isinstance(builder.root, list) else "one value"
    problems.error(document.value_place(()), (), f"{what} instead of keys; {keys}")


def _events(text: str, loader: Any) -> Iterator[Any]:
    yield from yaml.parse(text, Loader=loader)


def _check_characters(text: str) -> None:
    if "\0" in text:
        raise ConfigError("a NUL character, which no system call takes; delete it")
    if not text.isascii():
        # Half a surrogate pair: libyaml refuses it while it reads, so it is refused
        # here as an error of reading (UnicodeEncodeError is a ValueError).
        text.encode()


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
