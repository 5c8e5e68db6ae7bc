"""Turn a handler's options into the flags of its command line.

`max_size: 5` becomes `--max-size 5`, true `--name`, false `--no-name`, a list the flag
once for each. Any inetd can give the same flags, so a handler needs no superd.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from superd.config.presence import is_absent
from superd.config.problems import ConfigError, Path, Problems, show
from superd.config.programs import absolute

if TYPE_CHECKING:
    from superd.config.document import Document
    from superd.config.handlers import Handler

OPTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def option_flags(
    options: dict[str, Any],
    handler: Handler,
    path: Path,
    document: Document,
    problems: Problems,
) -> tuple[list[str], dict[str, Any]]:
    """The flags, and the options with every path absolute; notes what does not fit."""
    argv: list[str] = []
    settled: dict[str, Any] = {}
    declared = handler.options
    for name, value in options.items():
        here = (*path, name)
        if document.is_spoiled(here):
            continue
        if declared is not None and name not in declared:
            guess = problems.guess(name, declared)
            known = f"; known: {', '.join(declared)}" if declared else "; it has none"
            problems.error(
                document.key_place(here),
                here,
                f"unknown option of handler {handler.name}{guess or known}",
            )
            continue
        if not OPTION_NAME.fullmatch(name):
            problems.error(
                document.key_place(here),
                here,
                "an option is letters, digits, _ and -; it becomes a --flag",
            )
            continue
        if value is None:
            continue
        try:
            entry = declared[name] if declared is not None else None
            settled[name] = _settle(value, entry, here, document)
            argv += _flags(name, settled[name])
        except ConfigError as error:
            problems.error(document.value_place(here), here, str(error))
            continue
        if entry and entry["type"] == "path" and is_absent(settled[name]):
            text = f"{settled[name]} is not there; check the path"
            problems.warn(document.value_place(here), here, text)
    return argv, settled


def _settle(
    value: Any, entry: dict[str, Any] | None, path: Path, document: Document
) -> Any:
    """The value as its type wants it; raises ConfigError."""
    folder = document.source.folder
    kind = entry["type"] if entry else ""
    match kind:
        case "bool":
            if not isinstance(value, bool):
                raise ConfigError(f"expected true or false, got {show(value)}")
            return value
        case "int" | "float":
            return _number(value, kind, entry or {})
        case "list":
            items = value if isinstance(value, list) else [value]
            return [
                _text(item, (*path, number), document)
                for number, item in enumerate(items)
            ]
        case "path":
            text = _text(value, path, document)
            if not text:
                raise ConfigError("expected a path, got nothing; for example ./www")
            return absolute(text, folder)
        case "choice":
            choices = [str(choice) for choice in (entry or {})["choices"]]
            text = _text(value, path, document)
            if text not in choices:
                raise ConfigError(f"expected {' or '.join(choices)}, got {show(value)}")
            return text
        case "str":
            return _text(value, path, document)
    return _unchecked(value, path, document)


def _unchecked(value: Any, path: Path, document: Document) -> Any:
    """What a handler without OPTIONS gets: as written, but ./x is beside the file."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [
            _unchecked(item, (*path, number), document)
            for number, item in enumerate(value)
        ]
    text = _text(value, path, document)
    return (
        absolute(text, document.source.folder)
        if text.startswith(("./", "../"))
        else text
    )


def _number(value: Any, kind: str, entry: dict[str, Any]) -> int | float:
    wanted = "a whole number" if kind == "int" else "a number"
    fits = isinstance(value, int) or (kind == "float" and isinstance(value, float))
    example = f"; for example {entry['default']}" if entry.get("default") else ""
    if isinstance(value, bool) or not fits:
        raise ConfigError(f"expected {wanted}, got {show(value)}{example}")
    least, most = entry.get("min"), entry.get("max")
    if least is not None and value < least:
        raise ConfigError(f"expected {wanted}, at least {least}, got {show(value)}")
    if most is not None and value > most:
        raise ConfigError(f"expected {wanted}, at most {most}, got {show(value)}")
    return value  # type: ignore[no-any-return]


def _text(value: Any, path: Path, document: Document) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return document.texts.get(path, str(value))
    shown = "null" if value is None else show(value)
    quoted = f'; put it in quotes: "{shown}"' if value in (None, True, False) else ""
    raise ConfigError(f"expected text, got {shown}{quoted}")


def _flags(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    argv: list[str] = []
    for one in values:
        text = str(one)
        # argparse takes "-x" after a flag for the next flag.
        argv += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return argv
