"""Decide what an unquoted YAML word means: the core schema of YAML 1.2, less its traps.

Only `true`, `false`, `null`, canonical numbers and nothing at all mean more than their
text. `no`, `on`, `0755`, `22:22`, `1_000`, `2024-01-01` and `1e3` are text, as an editor
with YAML 1.2 shows them; PyYAML's own rules (YAML 1.1) make six other things of them.
"""

from __future__ import annotations

import re

from superd.config.problems import ConfigError

MOST_DIGITS = 40
"""int() refuses 4 301 digits with a ValueError and is slow long before."""

CONSTANTS: dict[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}

WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")

Scalar = str | int | float | bool | None


def resolve(text: str) -> Scalar:
    """The value of an unquoted word; raises ConfigError for a monstrous number."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if not text.isascii() or not (text[0].isdigit() or text[0] == "-"):
        return text
    whole = WHOLE.fullmatch(text)
    if not whole and not DECIMAL.fullmatch(text):
        return text
    if len(text) > MOST_DIGITS:
        raise ConfigError(
            f"a number of {len(text)} digits; put it in quotes if it is text"
        )
    if not whole:
        return float(text)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
