"""Declare a key: the one place where its help, bounds and reload cost are written.

The parser, the defaults, the JSON Schema, the reference and the dump all read what is
declared here and in `model.py`; no list of keys exists anywhere else.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from superd.config.problems import ConfigError, printable, show
from superd.config.units import (
    format_duration,
    format_size,
    format_umask,
    parse_duration,
    parse_size,
    parse_umask,
)

if TYPE_CHECKING:
    from collections.abc import Callable

COSTS = {
    "live": "takes effect in the running superd at once",
    "launcher": "new connections get a new launcher; running handlers finish as they are",
    "listener": "the listener is opened or closed; all others stay open",
    "log": "the log is opened again",
}

Cost = Literal["live", "launcher", "listener", "log", ""]

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d)|0)$"
SIZE_PATTERN = r"^[0-9]+[kKMGT]?$"
HIGHEST_ID = (1 << 32) - 1
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Keys(BaseModel):
    """A mapping with known keys: anything else in it is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def key(
    default: Any,
    text: str,
    *,
    cost: Cost = "",
    example: str,
    unit: str = "",
    values: str = "",
    ge: float | None = None,
    le: float | None = None,
    pattern: str | None = None,
    longest: int | None = None,
    alias: str | None = None,
) -> Any:
    """Declare a key; an empty cost is for a mapping, whose keys have their own."""
    extra: dict[str, Any] = {"x-reload": cost, "x-example": example}
    if unit:
        extra["x-unit"] = unit
    if values:
        extra["x-values"] = values
    return Field(
        default,
        description=text,
        ge=ge,
        le=le,
        pattern=pattern,
        max_length=longest,
        alias=alias,
        json_schema_extra=extra,
    )


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        shown = "null" if value is None else show(value)
        raise ConfigError(
            f'expected text, got {shown}; in quotes it is text: "{shown}"'
        )
    raise ConfigError(f"expected text, got {show(value)}; put it in quotes")


def _list_of_one(value: object) -> object:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _command(value: object) -> object:
    if isinstance(value, str):
        words = ", ".join(printable(value).split()) or "/usr/bin/cat"
        raise ConfigError(
            f"a command is a list, for no shell splits it; write [{words}]"
        )
    if value == []:
        raise ConfigError("the command is empty; for example [/usr/bin/cat]")
    return value


def _identity(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"expected a name or a number, got {show(value)}")
    number = re.fullmatch("-?[0-9]+", value)
    if number and not 0 <= int(value[:12]) < HIGHEST_ID:
        raise ConfigError(f"a number is from 0 to 4294967294, got {printable(value)}")
    return value


def _log_target(value: object) -> str:
    if value in ("stderr", "syslog", "journal"):
        return str(value)
    if isinstance(value, str) and os.path.isabs(value):
        return value
    raise ConfigError(
        f"expected stderr, syslog, journal or an absolute file, got {show(value)}"
    )


def _stderr(value: object) -> str:
    # A plain null in YAML is no text; here it can only mean /dev/null.
    if value is None:
        return "null"
    if value in ("log", "peer", "null"):
        return str(value)
    raise ConfigError(f"expected log, peer or null, got {show(value)}")


def _variable_name(value: object) -> str:
    if isinstance(value, str) and ENVIRONMENT_NAME.fullmatch(value):
        return value
    raise ConfigError(
        f"{show(value)} is no name of a variable; letters, digits and _, as in TZ"
    )


Limit = tuple[int, int | None] | None


def _limit(
    parse: Callable[[object], int],
    spell: Callable[[int], int | str],
    pattern: str | None,
) -> Any:
    """The type of a resource limit: one value for both, or [soft, hard]."""

    def read(value: object) -> Limit:
        if value is None:
            return None
        if isinstance(value, list):
            if len(value) != 2:  # noqa: PLR2004 -- soft and hard
                raise ConfigError(
                    "a list is [soft, hard]; a hard null is left as it is"
                )
            if value[0] is None:
                raise ConfigError("the soft limit is missing; a list is [soft, hard]")
            soft = parse(value[0])
            hard = None if value[1] is None else parse(value[1])
            if hard is not None and soft > hard:
                raise ConfigError("soft is above hard; a list is [soft, hard]")
            return (soft, hard)
        both = parse(value)
        return (both, both)

    def write(limit: Limit) -> object:
        if limit is None:
            return None
        soft, hard = limit
        if soft == hard:
            return spell(soft)
        return [spell(soft), None if hard is None else spell(hard)]

    kinds: list[Any] = [{"type": "integer"}]
    if pattern is not None:
        kinds.append({"type": "string", "pattern": pattern})
    kinds.append({"type": "null"})
    pair = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"anyOf": kinds}}
    schema = {"anyOf": [*kinds, pair]}
    return Annotated[
        Any, PlainValidator(read), PlainSerializer(write), WithJsonSchema(schema)
    ]


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"expected a whole number, got {show(value)}; for example 1024"
        )
    if not 1 <= value < 1 << 31:
        raise ConfigError(
            f"expected a whole number from 1 to 2147483647, got {show(value)}"
        )
    return value


def _seconds(value: object) -> int:
    seconds = parse_duration(value)
    if seconds < 1 or seconds % 1:
        raise ConfigError(f"expected whole seconds, at least 1s, got {show(value)}")
    return int(seconds)


def _some_memory(value: object) -> int:
    size = parse_size(value)
    if size < 1 << 16:
        raise ConfigError(f"less than 64k lets no program start, got {show(value)}")
    return size


Word = Annotated[str, PlainValidator(_word), WithJsonSchema({"type": "string"})]
Spelled = Annotated[
    str,
    PlainValidator(_word),
    WithJsonSchema({"type": ["string", "integer", "number"]}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": ["string", "integer"], "pattern": DURATION_PATTERN}),
]
Umask = Annotated[
    int,
    PlainValidator(parse_umask),
    PlainSerializer(format_umask),
    WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{1,3}$"}),
]
Identity = Annotated[
    str,
    PlainValidator(_identity),
    WithJsonSchema({"type": ["string", "integer"]}),
]
LogTarget = Annotated[
    str,
    PlainValidator(_log_target),
    WithJsonSchema({"type": "string", "pattern": "^(stderr|syslog|journal|/.*)$"}),
]
Stderr = Annotated[
    str,
    PlainValidator(_stderr),
    WithJsonSchema({"enum": ["log", "peer", "null", None]}),
]
Command = Annotated[
    list[Spelled], BeforeValidator(_command), Field(json_schema_extra={"minItems": 1})
]
VariableName = Annotated[
    str, PlainValidator(_variable_name), WithJsonSchema({"type": "string"})
]
ListOfOne = BeforeValidator(_list_of_one)
CountLimit = _limit(_count, int, None)
SizeLimit = _limit(parse_size, format_size, SIZE_PATTERN)
MemoryLimit = _limit(_some_memory, format_size, SIZE_PATTERN)
SecondsLimit = _limit(_seconds, format_duration, DURATION_PATTERN)
