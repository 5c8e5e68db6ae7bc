"""Read the values that carry a unit."""

from __future__ import annotations

import pytest

from superd.config.problems import ConfigError
from superd.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    parse_umask,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("5s", 5),
        ("1.5m", 90),
        ("1h", 3600),
        ("2d", 172_800),
        (0, 0),
        ("0s", 0),
    ],
)
def test_duration_is_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [5, -1, True, None, "5", "5 s", "-5s", "1h30m", "1e3s", "5S", "٣s", "0.1ms", 1.5],
)
def test_duration_without_a_unit_of_ours_is_refused(value):
    with pytest.raises(ConfigError):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        ("0", 0),
        (65_536, 65_536),
        ("64k", 65_536),
        ("64K", 65_536),
        ("1T", 1 << 40),
    ],
)
def test_size_is_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value", [-1, True, None, "1.5G", "64kb", "k", "", "64 k", 1 << 63, "9" * 19 + "T"]
)
def test_size_that_is_none_is_refused(value):
    with pytest.raises(ConfigError):
        parse_size(value)


@pytest.mark.parametrize(
    "value", [22, 0o22, True, None, "22a", "", "888", "0o22", "01234"]
)
def test_mask_that_is_not_octal_text_is_refused(value):
    with pytest.raises(ConfigError):
        parse_umask(value)


def test_mask_written_as_a_number_is_told_in_quotes():
    with pytest.raises(ConfigError, match='write it in quotes: "077"'):
        parse_umask(77)


def test_largest_unit_that_fits_is_written():
    assert format_duration(5400) == "90m"
    assert format_duration(0.25) == "250ms"
    assert format_size(1 << 20) == "1M"
    assert format_size(1000) == 1000
