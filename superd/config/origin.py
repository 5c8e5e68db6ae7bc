"""Know where each key of a service came from: its own lines, or `defaults`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superd.config.document import Document
    from superd.config.files import Entry
    from superd.config.problems import Path, Place, Problems


@dataclass(frozen=True, slots=True)
class Origin:
    """A service's keys, and those it takes from the defaults."""

    entry: Entry
    main: Document
    defaults: dict[str, Any]
    problems: Problems

    def has(self, *key: str) -> bool:
        """Whether the service itself sets a key."""
        return _holds(self.entry.data, key)

    def misspells(self, key: str) -> bool:
        """Whether an unknown key of the service was taken for this one."""
        return (*self.entry.path, key) in self.problems.meant

    def fits(self, value: object, *key: str) -> bool:
        """Whether a settled value is what was written; False where that was refused.

        Asked before a complaint about two keys: a refused one has been told already.
        """
        below = self.main.data.get("defaults")
        for data, path in (
            (self.entry.data, self.entry.path),
            (below, ("defaults",)),
        ):
            if (*path, *key) in self.problems.meant:
                return False
            if _holds(data, key):
                return bool(_value(data, key) == value)
        return True

    def where(self, *key: str | int) -> tuple[Document, Path]:
        """The file and the path that a value was written at."""
        names = [part for part in key if isinstance(part, str)]
        if not self.has(*names) and _holds(self.defaults, names):
            return self.main, ("defaults", *key)
        return self.entry.document, (*self.entry.path, *key)

    def place(self, *key: str | int) -> Place:
        """The place of a value, or of the service where it is nowhere written."""
        document, path = self.where(*key)
        return document.value_place(path)

    def error(self, key: tuple[str | int, ...], text: str) -> None:
        """Note an error at a value."""
        document, path = self.where(*key)
        if not document.is_spoiled(path):
            self.problems.error(document.value_place(path), path, text)

    def warn(self, key: tuple[str | int, ...], text: str) -> None:
        """Note a warning at a value."""
        document, path = self.where(*key)
        self.problems.warn(document.value_place(path), path, text)


def merge(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The service's own keys over the defaults, mappings key by key."""
    merged = dict(defaults)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def spell_out(data: Any, path: Path, document: Document) -> Any:
    """The data with numbers in a command or environment as they were written.

    `[/bin/sleep, 1.50]` means the text 1.50; only a true or a null is hardly meant.
    """
    if not isinstance(data, dict):
        return data
    spelled = dict(data)
    for key in ("exec", "environment"):
        value = data.get(key)
        if isinstance(value, list):
            spelled[key] = [
                _spell(one, (*path, key, number), document)
                for number, one in enumerate(value)
            ]
        elif isinstance(value, dict):
            spelled[key] = {
                name: _spell(one, (*path, key, name), document)
                for name, one in value.items()
            }
    return spelled


def _spell(value: Any, path: Path, document: Document) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return document.texts.get(path, str(value))


def _holds(data: Any, key: list[str] | tuple[str, ...]) -> bool:
    for part in key:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


def _value(data: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        data = data[part]
    return data
