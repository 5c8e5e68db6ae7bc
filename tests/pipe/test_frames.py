"""Whatever a network does to a framed stream: the stream comes out, or an error."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.pipeline import frames
from superd.handlers.pipeline.frames import FrameError, Intake, Reader, Writer

parts = st.lists(st.binary(max_size=300), max_size=8)
seeds = st.integers(0, 2**32 - 1)


def encode(data, seed=0):
    """The frames of a stream, one of them in each item."""
    writer = Writer(seed)
    total = sum(map(len, data))
    return [*(writer.frame(frames.DATA, part) for part in data), writer.end(total)]


def decode(pieces, seed=0):
    """What comes out: the bytes, and whether they are said to be whole."""
    intake = Intake(seed)
    out = b""
    try:
        for piece in pieces:
            out += b"".join(intake.feed(piece))
    except FrameError:
        return out, False
    return out, intake.is_whole


@given(parts, st.data(), seeds)
def test_a_stream_cut_into_any_pieces_is_the_stream(data, draw, seed):
    wire = b"".join(encode(data, seed))
    points = draw.draw(st.lists(st.integers(0, len(wire)), max_size=10))
    edges = [0, *sorted(points), len(wire)]
    pieces = [wire[a:b] for a, b in itertools.pairwise(edges)]
    assert decode(pieces, seed) == (b"".join(data), True)


@given(parts, st.data())
def test_a_stream_that_ends_early_is_never_whole(data, draw):
    wire = b"".join(encode(data))
    cut = draw.draw(st.integers(0, len(wire) - 1))
    out, whole = decode([wire[:cut]])
    assert not whole
    assert b"".join(data).startswith(out)


@given(parts, st.data())
def test_a_changed_byte_is_an_error_and_no_other_stream(data, draw):
    wire = bytearray(b"".join(encode(data)))
    place = draw.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= draw.draw(st.integers(1, 255))
    out, whole = decode([bytes(wire)])
    assert not whole
    assert b"".join(data).startswith(out)


@given(parts, st.data())
def test_frames_that_are_missing_doubled_or_moved_are_an_error(data, draw):
    sent = encode(data)
    changed = draw.draw(
        st.lists(st.sampled_from(range(len(sent))), max_size=len(sent) + 2)
    )
    out, whole = decode([sent[n] for n in changed])
    if changed == list(range(len(sent))):
        assert (out, whole) == (b"".join(data), True)
    else:
        assert not whole or changed[: len(sent)] == list(range(len(sent)))
        assert b"".join(data).startswith(out)


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_is_never_a_stream(pieces):
    out, whole = decode(pieces)
    assert (out, whole) == (b"", False)


@given(parts, seeds, seeds)
def test_the_stream_of_another_joint_is_none(data, mine, theirs):
    out, whole = decode([b"".join(encode(data, theirs))], mine)
    assert (out, whole) == ((b"".join(data), True) if mine == theirs else (b"", False))


def test_an_end_that_counts_other_bytes_is_an_error():
    writer = Writer()
    wire = writer.frame(frames.DATA, b"12345")
    with pytest.raises(FrameError, match="not as many bytes"):
        list(Intake().feed(wire + writer.end(4)))


def test_something_after_the_end_is_an_error():
    writer = Writer()
    wire = writer.end(0) + writer.frame(frames.DATA, b"x")
    with pytest.raises(FrameError, match="after the end"):
        list(Intake().feed(wire))


def test_an_abort_says_why():
    with pytest.raises(FrameError, match="killed by SIGKILL"):
        list(Intake().feed(Writer().frame(frames.ABORT, b"killed by SIGKILL")))


def test_a_length_past_the_limit_is_not_waited_for():
    head = struct.pack(">BII", frames.DATA, frames.LONGEST + 1, 0)
    with pytest.raises(FrameError, match="262145 bytes"):
        list(Reader().feed(head))


def test_after_an_error_nothing_comes_any_more():
    reader, writer = Reader(), Writer()
    with pytest.raises(FrameError):
        list(reader.feed(b"\xff" * 20))
    with pytest.raises(FrameError):
        list(reader.feed(writer.frame(frames.DATA, b"x")))
