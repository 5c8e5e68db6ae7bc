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
    from collections.abc import Mapping, Sequence
    from typing import Any

    Table = Mapping[str, Mapping[str, Any]]
    Options = dict[str, Any]

TYPES = ("str", "int", "float", "bool", "path", "list", "choice")
_PLACEHOLDERS = {
    "str": "TEXT",
    "int": "N",
    "float": "NUMBER",
    "path": "PATH",
    "list": "ITEM",
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
    options: Options = {key: _default(row) for key, row in table.items()}
    keys = {flag_of(key): key for key in table}
    given: set[str] = set()
    words = iter(argv)
    for word in words:
        if word == "--help":
            raise HelpWanted(usage(table, name))
        if not word.startswith("--") or word == "--":
            raise SetupError(f"unexpected argument {word}")
        flag, equals, value = word.partition("=")
        negated = keys.get("--" + flag.removeprefix("--no-"), "")
        if (
            flag.startswith("--no-")
            and flag not in keys
            and negated
            and table[negated]["type"] == "bool"
        ):
            if equals:
                raise SetupError(f"option {flag} takes no value")
            options[negated] = False
            continue
        if flag not in keys:
            raise SetupError(f"unknown option {flag}{_hint(flag, keys)}")
        key = keys[flag]
        kind = table[key]["type"]
        if kind == "bool" and not equals:
            options[key] = True
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise SetupError(f"option {flag} needs a value")
            value = following
        converted = _convert(flag, value, table[key])
        if kind == "list":
            # The first flag replaces the default, the others add to it.
            options[key] = [*options[key], converted] if key in given else [converted]
        else:
            options[key] = converted
        given.add(key)
    return options


def flag_of(key: str) -> str:
    """Spell an option as its flag: `max_names` is `--max-names`."""
    return "--" + key.replace("_", "-")


def usage(table: Table, name: str) -> str:
    """Write the text of `--help`."""
    lines = [f"usage: {name} [--flag value ...]", ""]
    for key, row in table.items():
        kind = row["type"]
        flag = flag_of(key)
        if kind == "bool":
            left = f"{flag}, --no-{flag[2:]}"
        elif kind == "choice":
            left = f"{flag} {'|'.join(row['choices'])}"
        else:
            left = f"{flag} {_PLACEHOLDERS[kind]}"
        lines += [f"  {left}", f"      {row['help']} (default: {_shown(row)})"]
    lines += ["  --help", "      print this and end", ""]
    return "\n".join(lines)


def _default(row: Mapping[str, Any]) -> Any:
    default = row.get("default")
    # A copy: a warm process parses more than once, and the table must not learn.
    return list(default or []) if row["type"] == "list" else default


def _shown(row: Mapping[str, Any]) -> str:
    default = row.get("default")
    if row["type"] == "bool":
        return "yes" if default else "no"
    if row["type"] == "list":
        return " ".join(default or []) or "none"
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
    if kind == "int":
        # int() takes `1_0`, ` 1` and the digits of every script.
        digits = value.removeprefix("-")
        if not digits or not _DIGITS.issuperset(digits):
            raise SetupError(f"option {flag}: {value} is no whole number")
        return _bounded(flag, int(value), row)
    if kind == "float":
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


def _bounded(flag: str, number: float, row: Mapping[str, Any]) -> float:
    if "min" in row and number < row["min"]:
        raise SetupError(f"option {flag}: {number} is less than {row['min']}")
    if "max" in row and number > row["max"]:
        raise SetupError(f"option {flag}: {number} is more than {row['max']}")
    return number


def _hint(flag: str, known: Mapping[str, str]) -> str:
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
