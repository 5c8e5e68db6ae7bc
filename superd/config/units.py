"""Read and write the values that carry a unit: durations, sizes, octal masks.

A duration is milliseconds underneath and a size bytes, both whole numbers, so that what
is read, written and read again is the same value.
"""

from __future__ import annotations

import re

from superd.config.problems import ConfigError, show

MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
BYTES = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "k": 1 << 10}

LONGEST = 10_000 * MILLISECONDS["d"]
LARGEST = (1 << 63) - 1

DURATION = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?(ms|[smhd])")
SIZE = re.compile(r"([0-9]{1,19})([kKMGT]?)")


def parse_duration(value: object) -> float:
    """Seconds of `200ms`, `5s`, `1.5h`, `2d`; a plain 0 needs no unit."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        raise ConfigError(
            f"a duration needs its unit, got {show(value)}; write {value}s"
        )
    found = DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ConfigError(
            f"expected a duration, got {show(value)}; for example 200ms, 5s, 1m, 1h, 2d"
        )
    whole, fraction, unit = found[1], found[2] or "", found[3]
    scale: int = 10 ** len(fraction)
    scaled = int(whole + fraction) * MILLISECONDS[unit]
    milliseconds, rest = divmod(scaled, scale)
    if rest:
        raise ConfigError(f"{value} is finer than a millisecond; for example 200ms")
    if milliseconds > LONGEST:
        raise ConfigError(
            f"{value} is longer than 10000d; leave the key out for no limit"
        )
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """The shortest spelling of a duration in a single unit."""
    milliseconds = round(seconds * 1000)
    if not milliseconds:
        return "0s"
    unit = next(unit for unit, size in MILLISECONDS.items() if not milliseconds % size)
    return f"{milliseconds // MILLISECONDS[unit]}{unit}"


def parse_size(value: object) -> int:
    """Bytes of `64k`, `512M`, `1G` or a plain number; a unit is a power of 1024."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        found = SIZE.fullmatch(value) if isinstance(value, str) else None
        if not found:
            raise ConfigError(
                f"expected a size, got {show(value)}; for example 65536, 64k, 512M, 1G"
            )
        size = int(found[1]) * BYTES.get("k" if found[2] == "K" else found[2], 1)
    if not 0 <= size <= LARGEST:
        raise ConfigError(f"a size is from 0 to 2^63-1 bytes, got {show(value)}")
    return size


def format_size(size: int) -> int | str:
    """The shortest spelling of a size: 1048576 is 1M, 1000 stays a number."""
    for unit, factor in BYTES.items():
        if size and not size % factor:
            return f"{size // factor}{unit}"
    return size


def parse_umask(value: object) -> int:
    """The mask of an octal string; a number is refused: 22 may be either."""
    if isinstance(value, int) and not isinstance(value, bool):
        digits = str(value)
        example = digits.zfill(3) if re.fullmatch("[0-7]{1,4}", digits) else "022"
        raise ConfigError(f'a mask is octal text; write it in quotes: "{example}"')
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{1,3}", value):
        raise ConfigError(
            f'expected three octal digits in quotes, got {show(value)}; for example "022"'
        )
    return int(value, 8)


def format_umask(mask: int) -> str:
    """Three octal digits."""
    return f"{mask:03o}"
