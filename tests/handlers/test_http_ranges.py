"""Ranges of RFC 9110 14, against slices of bytes."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.http.ranges import (
    MOST,
    Span,
    content_range,
    multipart,
    parse_range,
)


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        (b"bytes=0-9", [(0, 10)]),
        (b"bytes=99-99", [(99, 100)]),
        (b"bytes=0-", [(0, 100)]),
        (b"bytes=90-", [(90, 100)]),
        (b"bytes=-10", [(90, 100)]),
        (b"bytes=-1000", [(0, 100)]),
        (b"bytes=50-1000", [(50, 100)]),
        (b"BYTES=0-0", [(0, 1)]),
        (b"bytes=0-1,5-6", [(0, 2), (5, 7)]),
        (b"bytes=5-6 ,\t0-1", [(5, 7), (0, 2)]),
        (b"bytes=,0-1,,", [(0, 2)]),
        (b"bytes=0-9,5-14", [(0, 10), (5, 15)]),
        (b"bytes=0-1,500-", [(0, 2)]),
        (b"bytes=00000000000000000000001-2", [(1, 3)]),
        (b"bytes=0-99999999999999999999999999", [(0, 100)]),
        # None of it is there.
        (b"bytes=100-", []),
        (b"bytes=100-200", []),
        (b"bytes=-0", []),
        (b"bytes=200-,100-", []),
        (b"bytes=99999999999999999999999999-", []),
        (b"bytes=" + b"9" * 5000 + b"-", []),
        # Not to be taken for a wish at all.
        (b"", None),
        (b"bytes", None),
        (b"bytes=", None),
        (b"bytes=,", None),
        (b"bytes=-", None),
        (b"bytes=a-b", None),
        (b"bytes=5", None),
        (b"bytes=5-2", None),
        (b"bytes=0-1,5-2", None),
        (b"bytes=1-2-3", None),
        (b"bytes=+1-2", None),
        (b"bytes=1_0-20", None),
        (b"bytes=0 - 1", None),
        (b"bytes= 0-1", [(0, 2)]),
        (b"bytes=0x1-2", None),
        ("bytes=\u0660-\u0669".encode(), None),
        (b"lines=0-1", None),
        (b"bytes =0-1", None),
        (b"bytes:0-1", None),
        # More than the file has.
        (b"bytes=0-,0-", None),
        (b"bytes=0-99,0-0", None),
        (b"bytes=" + b"0-0," * MOST, [(0, 1)] * MOST),
        (b"bytes=" + b"0-0," * (MOST + 1), None),
    ],
)
def test_a_field_and_its_spans(value, spans):
    found = parse_range(value, 100)
    assert found == (spans if spans is None else [Span(*span) for span in spans])


@pytest.mark.parametrize("value", [b"bytes=0-", b"bytes=0-5", b"bytes=-0", b"bytes=-5"])
def test_of_nothing_there_is_no_part(value):
    assert parse_range(value, 0) is None


positions = st.one_of(st.none(), st.integers(0, 120))


@given(st.binary(min_size=1, max_size=100), positions, positions)
def test_one_range_is_a_slice(data, first, last):
    """Python's slices are the oracle."""
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    spans = parse_range(text.encode(), len(data))
    if first is None and last is None:
        assert spans is None
        return
    if first is None:
        wanted = data[max(0, len(data) - last) :]
    elif last is None:
        wanted = data[first:]
    elif last < first:
        assert spans is None
        return
    else:
        wanted = data[first : last + 1]
    assert b"".join(data[span.start : span.end] for span in spans) == wanted


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), max_size=14),
    st.integers(0, 100),
)
def test_an_answer_is_never_longer_than_the_file(pairs, size):
    text = "bytes=" + ",".join(f"{first}-{last}" for first, last in pairs)
    spans = parse_range(text.encode(), size)
    if spans is not None:
        assert sum(span.end - span.start for span in spans) <= size
        assert all(0 <= span.start < span.end <= size for span in spans)
        assert len(spans) <= MOST


@given(st.binary(max_size=60), st.integers(0, 2**62))
def test_any_bytes_are_a_list_of_spans_or_none(value, size):
    for text in (value, b"bytes=" + value):
        assert parse_range(text, size) is None or isinstance(
            parse_range(text, size), list
        )


@given(st.binary(min_size=9, max_size=80), st.integers(2, 9))
def test_another_parser_reads_the_parts_in_their_order(data, count):
    spans = [Span(number, number + 1) for number in reversed(range(count))]
    pieces, tail = multipart(spans, len(data), "a/b", "XYZ")
    body = b"".join(
        piece.head + data[piece.start : piece.start + piece.size] for piece in pieces
    )
    head = b"Content-Type: multipart/byteranges; boundary=XYZ\r\n\r\n"
    message = email.message_from_bytes(head + body + tail, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    assert [part["Content-Range"] for part in parts] == [
        content_range(span, len(data)) for span in spans
    ]
    assert [part.get_content_type() for part in parts] == ["a/b"] * count
    assert body.startswith(b"--XYZ\r\n")
    assert (body + tail).endswith(b"\r\n--XYZ--\r\n")
