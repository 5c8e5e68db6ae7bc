"""Read a handler's flags by its table of options.

The table is the `OPTIONS` of the handler's module, a pure literal: superd reads it with
ast.literal_eval, without importing the module, to check the `options:` of a service.
argparse would do the same in 15 ms; under an inetd that starts an interpreter for each
connection that is as much as the interpreter itself.
"""

from __future__ import annotations

from superd.handlers.exits import SetupError

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    Table = Mapping[str, Mapping[str, Any]]
    Options = dict[str, Any]
    _Flag = tuple[Options, str, Mapping[str, Any]]
    """Where the value goes, under which key, and the row that says what it may be."""

TYPES = (
    *("str", "int", "float", "bool", "path", "list", "choice"),
    *("duration", "size", "map", "table"),
)
"""`duration` is in seconds and `size` in bytes; `map` is pairs of text, `table` further
options below one name. See superd/handlers/README.md."""
_PLACEHOLDERS = {
    "str": "TEXT",
    "int": "N",
    "float": "NUMBER",
    "path": "PATH",
    "list": "ITEM",
    "map": "'KEY: VALUE'",
    "duration": "SECONDS",
    "size": "BYTES",
}
_DIGITS = frozenset("0123456789")
_CLOSE_ENOUGH = 2


class HelpWanted(Exception):  # noqa: N818  no error: a wish
    """`--help` was among the flags; the text is the usage."""


def parse(argv: Sequence[str], table: Table, name: str) -> Options:
    """Turn flags into options, every default filled in.

    Raises SetupError for a flag that is unknown, lacks its value or has a bad one, and
    HelpWanted for `--help`.
    """
    # A worker of a pool is given the same flags for each connection.
    flags = tuple(argv)
    if _last.get("table") is not table or _last["flags"] != flags:
        _last.update(options=_parse(argv, table, name), table=table, flags=flags)
    return _copy(_last["options"])


_last: dict[str, Any] = {}


def _copy(options: Options) -> Options:
    """Copy what a handler may change; the pairs and texts in it cannot be."""
    copies: dict[type, Callable[[Any], Any]] = {list: list, dict: _copy}
    return {
        key: copies[type(value)](value) if type(value) in copies else value
        for key, value in options.items()
    }


def _parse(argv: Sequence[str], table: Table, name: str) -> Options:
    options = _defaults(table)
    flags = _flags_of(table, options)
    given: set[str] = set()
    words = iter(argv)
    for word in words:
        if word == "--help":
            raise HelpWanted(usage(table, name))
        if not word.startswith("--") or word == "--":
            raise SetupError(f"unexpected argument {word}")
        flag, equals, value = word.partition("=")
        if flag not in flags and flag.startswith("--no-"):
            negated = flags.get("--" + flag.removeprefix("--no-"))
            if negated and negated[2]["type"] == "bool":
                if equals:
                    raise SetupError(f"option {flag} takes no value")
                negated[0][negated[1]] = False
                continue
        if flag not in flags:
            raise SetupError(f"unknown option {flag}{_hint(flag, flags)}")
        holder, key, row = flags[flag]
        kind = row["type"]
        if kind == "bool" and not equals:
            holder[key] = True
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise SetupError(f"option {flag} needs a value")
            value = following
        converted = _convert(flag, value, row)
        if kind in ("list", "map"):
            # The first flag replaces the default, the others add to it.
            holder[key] = [*holder[key], converted] if flag in given else [converted]
        else:
            holder[key] = converted
        given.add(flag)
    return options


def _flags_of(table: Table, options: Options, before: str = "--") -> dict[str, _Flag]:
    flags: dict[str, _Flag] = {}
    for key, row in table.items():
        flag = flag_of(key, before)
        if row["type"] != "table":
            flags[flag] = (options, key, row)
            continue
        flags |= _flags_of(row["keys"], options[key], f"{flag}.")
        if lone := row.get("lone"):
            flags[flag] = (options[key], lone, row["keys"][lone])
    return flags


def flag_of(key: str, before: str = "--") -> str:
    """Spell an option as its flag: `max_names` is `--max-names`."""
    return before + key.replace("_", "-")


def usage(table: Table, name: str) -> str:
    """Write the text of `--help`."""
    lines = [f"usage: {name} [--flag value ...]", "", *_rows(table, "--")]
    lines += ["  --help", "      print this and end", ""]
    return "\n".join(lines)


def _rows(table: Table, before: str) -> Iterator[str]:
    for key, row in table.items():
        kind = row["type"]
        flag = flag_of(key, before)
        if kind == "table":
            yield f"  {flag}.NAME: {row['help']}"
            yield from _rows(row["keys"], f"{flag}.")
            continue
        if kind == "bool":
            left = f"{flag}, --no-{flag[2:]}"
        elif kind == "choice":
            left = f"{flag} {'|'.join(row['choices'])}"
        else:
            left = f"{flag} {_PLACEHOLDERS[kind]}"
        yield f"  {left}"
        yield f"      {row['help']} (default: {_shown(row)})"


def _defaults(table: Table) -> Options:
    return {key: _default(row) for key, row in table.items()}


def _default(row: Mapping[str, Any]) -> Any:
    if row["type"] == "table":
        return _defaults(row["keys"])
    default = row.get("default")
    # A copy: a warm process parses more than once, and the table must not learn.
    return list(default or []) if row["type"] in ("list", "map") else default


def _shown(row: Mapping[str, Any]) -> str:
    default = row.get("default")
    if row["type"] == "bool":
        return "yes" if default else "no"
    if row["type"] == "list":
        return " ".join(default or []) or "none"
    if row["type"] == "map":
        return ", ".join(f"{key}: {value}" for key, value in default or []) or "none"
    return "none" if default in (None, "") else str(default)


def _convert(flag: str, value: str, row: Mapping[str, Any]) -> Any:
    kind = row["type"]
    if kind == "bool":
        if value in ("true", "yes"):
            return True
        if value in ("false", "no"):
            return False
        raise SetupError(f"option {flag}: {value} is neither true nor false")
    if kind == "choice":
        if value not in row["choices"]:
            raise SetupError(
                f"option {flag}: {value} is none of {', '.join(row['choices'])}"
            )
        return value
    if kind == "map":
        return _pair(flag, value, row)
    if kind in ("int", "size"):
        # int() takes `1_0`, ` 1` and the digits of every script.
        digits = value.removeprefix("-")
        if not digits or not _DIGITS.issuperset(digits):
            raise SetupError(f"option {flag}: {value} is no whole number")
        return _bounded(flag, int(value), row)
    if kind in ("float", "duration"):
        try:
            number = float(value)
        except ValueError:
            raise SetupError(f"option {flag}: {value} is no number") from None
        if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124  NaN
            raise SetupError(f"option {flag}: {value} is no finite number")
        return _bounded(flag, number, row)
    if "\0" in value:
        raise SetupError(f"option {flag}: a NUL byte is no text")
    return value


def _pair(flag: str, text: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Read `KEY: VALUE`; where a lone value has a key of its own, that alone."""
    if "\0" in text:
        raise SetupError(f"option {flag}: a NUL byte is no text")
    key, colon, value = text.partition(": ")
    if not colon and "lone" in row:
        return row["lone"], text
    if not colon or not key:
        raise SetupError(f"option {flag}: {text} is not KEY: VALUE")
    return key, value.strip(" ")


def _bounded(flag: str, number: float, row: Mapping[str, Any]) -> float:
    least = row.get("min", 0 if row["type"] in ("duration", "size") else number)
    if number < least:
        raise SetupError(f"option {flag}: {number} is less than {least}")
    if "max" in row and number > row["max"]:
        raise SetupError(f"option {flag}: {number} is more than {row['max']}")
    return number


def _hint(flag: str, known: Mapping[str, _Flag]) -> str:
    nearest = min(known, key=lambda candidate: _distance(flag, candidate), default=None)
    if nearest is None or _distance(flag, nearest) > _CLOSE_ENOUGH:
        return ""
    return f"; did you mean {nearest}?"


def _distance(left: str, right: str) -> int:
    """Count the edits between two short words; difflib is slow to load."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left[:64], 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b)),
            )
    return row[-1]
