"""Turn a handler's options into the flags of its command line.

`max_size: 5` becomes `--max-size 5`, true `--name`, false `--no-name`, a list the flag
once for each, `timeouts: {idle: 5s}` becomes `--timeouts.idle 5` and an entry of a map
`--headers 'X-Name: value'`. Any inetd can give the same flags, so a handler needs no
superd. What is written is a flag, also where it is the default: a handler may look.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from superd.config.presence import is_absent
from superd.config.problems import ConfigError, Path, Problems, show
from superd.config.programs import absolute
from superd.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from superd.config.document import Document
    from superd.config.handlers import Handler

    Rows = Mapping[str, Mapping[str, Any]]

OPTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def option_flags(
    options: dict[str, Any],
    handler: Handler,
    path: Path,
    document: Document,
    problems: Problems,
    directory: str,
) -> tuple[list[str], dict[str, Any]]:
    """The flags, and the options with every path absolute; notes what does not fit.

    A path that a handler takes by default is relative to `directory`, where it starts.
    """
    settler = _Settler(handler, document, problems, directory)
    if handler.options is None:
        return settler.undeclared(options, path)
    return settler.table(handler.options, options, path, "--")


class _Settler:
    """Settles the options of one handler."""

    def __init__(
        self, handler: Handler, document: Document, problems: Problems, directory: str
    ) -> None:
        self._handler = handler
        self._document = document
        self._problems = problems
        self._directory = directory

    def table(
        self, rows: Rows, options: Any, path: Path, before: str
    ) -> tuple[list[str], dict[str, Any]]:
        """The flags of these rows, and what each is, the defaults too."""
        flags: dict[str, list[str]] = {}
        settled = {name: self._default(row) for name, row in rows.items()}
        for name, value in options.items():
            here = (*path, name)
            if self._document.is_spoiled(here):
                continue
            if name not in rows:
                if value is not None:
                    self._unknown(name, rows, here)
                continue
            row = rows[name]
            if value is None:
                if row["type"] == "table":
                    text = "it has no value: the same as if it were not there"
                    self._problems.warn(self._document.value_place(here), here, text)
                continue
            flag = before + name.replace("_", "-")
            try:
                if row["type"] == "table":
                    below = self._spread(value, row)
                    flags[name], settled[name] = self.table(
                        row["keys"], below, here, f"{flag}."
                    )
                    continue
                settled[name] = self._settle(value, row, here)
            except ConfigError as error:
                self._problems.error(self._document.value_place(here), here, str(error))
                continue
            flags[name] = _flags(flag, settled[name], row["type"])
            made = row.get("made", False)
            if row["type"] == "path" and not made and is_absent(settled[name]):
                text = f"{settled[name]} is not there; check the path"
                self._problems.warn(self._document.value_place(here), here, text)
        # In the order of the rows, however they were written: the same plan.
        return [word for name in rows for word in flags.get(name, ())], settled

    def undeclared(
        self, options: dict[str, Any], path: Path
    ) -> tuple[list[str], dict[str, Any]]:
        """The flags of a handler that has no OPTIONS: as written."""
        argv: list[str] = []
        settled: dict[str, Any] = {}
        for name, value in options.items():
            here = (*path, name)
            if self._document.is_spoiled(here):
                continue
            if not OPTION_NAME.fullmatch(name):
                self._problems.error(
                    self._document.key_place(here),
                    here,
                    "an option is letters, digits, _ and -; it becomes a --flag",
                )
                continue
            if value is None:
                continue
            try:
                settled[name] = self._unchecked(value, here)
            except ConfigError as error:
                self._problems.error(self._document.value_place(here), here, str(error))
                continue
            argv += _flags("--" + name.replace("_", "-"), settled[name], "")
        return argv, settled

    def _unknown(self, name: str, rows: Rows, here: Path) -> None:
        guess = self._problems.guess(name, rows)
        known = f"; known: {', '.join(rows)}" if rows else "; it has none"
        self._problems.error(
            self._document.key_place(here),
            here,
            f"unknown option of handler {self._handler.name}{guess or known}",
        )

    def _spread(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a table; a single value stands for the one it is known by."""
        if isinstance(value, dict):
            return value
        if "lone" in row and not isinstance(value, list):
            return {row["lone"]: value}
        example = next(iter(row["keys"]))
        raise ConfigError(f"expected {{{example}: ...}}, got {show(value)}")

    def _default(self, row: Mapping[str, Any]) -> Any:
        default = row.get("default")
        match row["type"]:
            case "table":
                return {key: self._default(one) for key, one in row["keys"].items()}
            case "duration" if default is not None:
                return format_duration(default)
            case "size" if default is not None:
                return format_size(default)
            case "map":
                return _mapping([(key, value) for key, value in default or []])
            case "path":
                return absolute(default, self._directory) if default else None
            case "list":
                return list(default or [])
        return default

    def _settle(self, value: Any, row: Mapping[str, Any], path: Path) -> Any:
        """The value as its type wants it; raises ConfigError."""
        match row["type"]:
            case "bool":
                if not isinstance(value, bool):
                    raise ConfigError(f"expected true or false, got {show(value)}")
                return value
            case "int" | "float":
                return _number(value, row)
            case "duration":
                return format_duration(_within(parse_duration(value), value, row))
            case "size":
                return format_size(int(_within(parse_size(value), value, row)))
            case "list":
                items = value if isinstance(value, list) else [value]
                return [
                    self._text(item, (*path, number))
                    for number, item in enumerate(items)
                ]
            case "map":
                return _mapping(list(self._pairs(value, row, path)))
            case "path":
                text = self._text(value, path)
                if not text:
                    raise ConfigError("expected a path, got nothing; for example ./www")
                return absolute(text, self._document.source.folder)
            case "choice":
                choices = [str(choice) for choice in row["choices"]]
                text = self._text(value, path)
                if text not in choices:
                    raise ConfigError(
                        f"expected {' or '.join(choices)}, got {show(value)}"
                    )
                return text
        return self._text(value, path)

    def _pairs(
        self, value: Any, row: Mapping[str, Any], path: Path
    ) -> Iterator[tuple[str, str]]:
        """Read `{key: value}`, `["key: value"]`, or a value that needs no key.

        A value may be a list of words, which become a text by the rules of a shell.
        """
        if isinstance(value, dict):
            for key, one in value.items():
                if ": " in key or not key:
                    raise ConfigError(f"no key has a colon and a space: {show(key)}")
                where = (*path, key)
                if isinstance(one, list):
                    # A command line, by its words.
                    words = [
                        self._text(word, (*where, number))
                        for number, word in enumerate(one)
                    ]
                    yield key, shlex.join(words)
                else:
                    yield key, self._text(one, where)
            return
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            where = (*path, number) if isinstance(value, list) else path
            text = self._text(item, where)
            key, colon, rest = text.partition(": ")
            if colon and key:
                yield key, rest.strip(" ")
            elif "lone" in row and not colon:
                yield row["lone"], text
            else:
                raise ConfigError(f'expected "KEY: VALUE", got {show(text)}')

    def _unchecked(self, value: Any, path: Path) -> Any:
        """What a handler without OPTIONS gets: as written, but ./x is beside the file."""
        if isinstance(value, bool):
            return value
        if isinstance(value, list):
            return [
                self._unchecked(item, (*path, number))
                for number, item in enumerate(value)
            ]
        text = self._text(value, path)
        return (
            absolute(text, self._document.source.folder)
            if text.startswith(("./", "../"))
            else text
        )

    def _text(self, value: Any, path: Path) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._document.texts.get(path, str(value))
        shown = "null" if value is None else show(value)
        quoted = (
            f'; put it in quotes: "{shown}"' if value in (None, True, False) else ""
        )
        raise ConfigError(f"expected text, got {shown}{quoted}")


def _mapping(pairs: list[tuple[str, str]]) -> dict[str, str] | list[str]:
    """Pairs as one writes them: as a mapping, or where a key comes twice as a list."""
    mapping = dict(pairs)
    if len(mapping) == len(pairs):
        return mapping
    return [f"{key}: {value}" for key, value in pairs]


def _number(value: Any, row: Mapping[str, Any]) -> int | float:
    whole = row["type"] == "int"
    wanted = "a whole number" if whole else "a number"
    fits = isinstance(value, int) or (not whole and isinstance(value, float))
    example = f"; for example {row['default']}" if row.get("default") else ""
    if isinstance(value, bool) or not fits:
        raise ConfigError(f"expected {wanted}, got {show(value)}{example}")
    least, most = row.get("min"), row.get("max")
    if least is not None and value < least:
        raise ConfigError(f"expected {wanted}, at least {least}, got {show(value)}")
    if most is not None and value > most:
        raise ConfigError(f"expected {wanted}, at most {most}, got {show(value)}")
    return value  # type: ignore[no-any-return]


def _within(number: float, value: Any, row: Mapping[str, Any]) -> float:
    """A duration or size within its bounds, which are spelt with their unit."""
    spell: Any = format_duration if row["type"] == "duration" else format_size
    least, most = row.get("min"), row.get("max")
    if least is not None and number < least:
        raise ConfigError(f"expected at least {spell(least)}, got {show(value)}")
    if most is not None and number > most:
        raise ConfigError(f"expected at most {spell(most)}, got {show(value)}")
    return number


def _flags(flag: str, value: Any, kind: str) -> list[str]:
    """Spell a value as flags; one that is not there, an empty list say, has none."""
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if kind == "duration":
        return [flag, f"{parse_duration(value):g}"]
    if kind == "size":
        return [flag, str(parse_size(value))]
    if isinstance(value, dict):
        value = [f"{key}: {one}" for key, one in value.items()]
    values = value if isinstance(value, list) else [value]
    argv: list[str] = []
    for one in values:
        text = str(one)
        # argparse takes "-x" after a flag for the next flag.
        argv += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return argv
