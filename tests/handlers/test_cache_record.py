"""A stored answer, written down and read back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.record import Stored, from_bytes, to_bytes

TEXT = st.binary(max_size=20).map(lambda text: text.translate(None, b"\r\n\0"))
FIELDS = st.lists(st.tuples(TEXT, TEXT), max_size=4)
MOMENT = st.floats(-1e12, 1e12)
RECORDS = st.builds(
    Stored,
    TEXT,
    st.integers(200, 999),
    TEXT,
    FIELDS,
    FIELDS,
    MOMENT,
    MOMENT,
    st.integers(0, 2**63),
)
ONE = Stored(
    b"http://a/b?c",
    200,
    b"OK",
    [(b"Date", b"x"), (b"ETag", b'"\xfc"')],
    [(b"Accept", b"")],
    1.25,
    2.5,
    2**40,
)


@given(RECORDS)
def test_what_is_written_is_read(stored):
    assert from_bytes(to_bytes(stored)) == stored


@given(st.binary(max_size=80))
def test_nothing_else_is_read(data):
    with pytest.raises(ValueError, match="record"):
        from_bytes(data)


@given(RECORDS, st.data())
def test_a_half_and_a_double_are_no_record(stored, data):
    whole = to_bytes(stored)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for broken in (whole[:cut], whole + b"\0", whole + whole):
        with pytest.raises(ValueError, match="record"):
            from_bytes(broken)


@given(st.integers(0, len(to_bytes(ONE)) - 1), st.integers(0, 255))
def test_a_byte_that_has_changed_crashes_nothing(where, value):
    data = bytearray(to_bytes(ONE))
    data[where] = value
    with suppress(ValueError):
        assert isinstance(from_bytes(bytes(data)), Stored)


@pytest.mark.parametrize(
    "broken",
    [
        ONE._replace(reason=b"OK\r\nX: y"),
        ONE._replace(fields=[(b"A", b"b\n")]),
        ONE._replace(request=[(b"A\0", b"b")]),
        ONE._replace(received=float("nan")),
        ONE._replace(requested=float("inf")),
        ONE._replace(status=100),
    ],
)
def test_what_would_break_a_head_is_not_read(broken):
    with pytest.raises(ValueError, match="record"):
        from_bytes(to_bytes(broken))


def test_a_record_of_another_version_is_not_read():
    assert from_bytes(to_bytes(ONE)) == ONE
    with pytest.raises(ValueError, match="version"):
        from_bytes(b"\x02" + to_bytes(ONE)[1:])
