"""Whatever is done to a compressed stream: the stream comes out, or an error."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superd.handlers.pipeline import frames, zstd
from superd.handlers.pipeline.failure import Failure
from superd.handlers.pipeline.frames import CHUNK, FrameError, Intake, Writer
from superd.handlers.pipeline.zstd import Packer, Unpacker, ZstdBroken

try:
    zstd.library()
except Failure as failure:
    pytest.skip(str(failure), allow_module_level=True)

parts = st.lists(
    st.binary(max_size=300) | st.builds(bytes, st.integers(0, 3000)), max_size=6
)


def compress(data, level=3):
    """The pieces of a stream: one for each part, and its end."""
    packer = Packer(level)
    return [*map(packer.pack, data), packer.finish()]


def decompress(pieces, room=CHUNK):
    """What comes out, asked for by the piece; and whether it is said to be whole."""
    unpacker, out = Unpacker(), b""
    for piece in pieces:
        got = unpacker.unpack(piece, room)
        out += got
        while unpacker.has_more:
            got = unpacker.unpack(b"", room)
            assert len(got) <= room
            out += got
    return out, unpacker.is_whole


def frame(packed, total):
    """The frames of a joint with these pieces of a compressed stream."""
    writer = Writer()
    sent = [writer.frame(frames.PACKED, piece) for piece in packed]
    return b"".join([*sent, writer.end(total)])


def receive(wire):
    """What comes out of a joint, and whether it is said to be whole."""
    intake, out = Intake(0, Unpacker()), b""
    try:
        for part in intake.feed(wire):
            out += part
    except FrameError:
        return out, False
    return out, intake.is_whole


@given(parts, st.integers(1, zstd.HIGHEST_LEVEL), st.integers(1, 500), st.data())
def test_a_stream_cut_into_any_pieces_is_the_stream(data, level, room, draw):
    wire = b"".join(compress(data, level))
    points = draw.draw(st.lists(st.integers(0, len(wire)), max_size=8))
    edges = [0, *sorted(points), len(wire)]
    pieces = [wire[a:b] for a, b in itertools.pairwise(edges)]
    assert decompress(pieces, room) == (b"".join(data), True)


@given(parts)
def test_what_was_given_is_all_on_its_way_before_the_next_comes(data):
    packer, unpacker = Packer(3), Unpacker()
    for part in data:
        assert unpacker.unpack(packer.pack(part), CHUNK) == part


@given(parts, st.data())
def test_a_stream_that_ends_early_is_never_whole(data, draw):
    wire = b"".join(compress(data))
    out, whole = decompress([wire[: draw.draw(st.integers(0, len(wire) - 1))]])
    assert not whole
    assert b"".join(data).startswith(out)


@given(parts, st.data())
def test_a_changed_byte_is_an_error_or_changes_nothing(data, draw):
    """Its checksum is of 32 bits (RFC 8878, 3.1.1): no other stream is whole."""
    wire = bytearray(b"".join(compress(data)))
    wire[draw.draw(st.integers(0, len(wire) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        out, whole = decompress([bytes(wire)])
    except ZstdBroken:
        return
    assert not whole or out == b"".join(data)


@given(st.binary(min_size=1, max_size=100))
def test_garbage_is_never_a_stream(data):
    assume(not zstd.MAGIC.startswith(data[:4]))
    with pytest.raises(ZstdBroken, match="it does not come compressed"):
        decompress([data])


def test_a_frame_that_is_to_be_skipped_is_no_way_in():
    with pytest.raises(ZstdBroken, match="it does not come compressed"):
        decompress([b"\x50\x2a\x4d\x18\x04\0\0\0abcd", *compress([b"x"])])


@pytest.mark.parametrize("more", [b"x", zstd.MAGIC])
@pytest.mark.parametrize("together", [True, False])
def test_something_after_the_end_is_an_error(more, together):
    wire = b"".join(compress([b"x"]))
    with pytest.raises(ZstdBroken, match="after the end"):
        decompress([wire + more] if together else [wire, more])


def test_a_window_past_eight_megabytes_is_refused():
    library = zstd.library()
    for log, fits in ((23, True), (24, False)):
        options = {library.CompressionParameter.window_log: log}
        packer = library.ZstdCompressor(options=options)
        wire = packer.compress(b"x", packer.FLUSH_BLOCK)
        if fits:
            assert Unpacker().unpack(wire, 10) == b"x"
        else:
            with pytest.raises(ZstdBroken, match="too much memory"):
                Unpacker().unpack(wire, 10)


@pytest.mark.parametrize("level", [1, zstd.HIGHEST_LEVEL])
def test_no_level_that_we_offer_needs_more_of_the_other_end(level):
    data = [bytes(range(256)) * 256] * 200  # 13 MB, more than a window
    assert decompress(compress(data, level)) == (b"".join(data), True)


def test_a_bomb_comes_out_by_the_piece():
    """300 MB in 10 kB: we hold what was asked for."""
    packer = Packer(19)
    wire = b"".join([packer.pack(bytes(1 << 20)) for _ in range(300)])
    assert len(wire) < 50_000
    unpacker, total = Unpacker(), 0
    tracemalloc.start()
    piece = unpacker.unpack(wire, CHUNK)
    while unpacker.has_more:
        total += len(piece)
        piece = unpacker.unpack(b"", CHUNK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total + len(piece) == 300 << 20
    assert peak < 1 << 20


# -- in the frames of a joint --------------------------------------------------------------


@given(parts)
def test_in_frames_a_stream_is_the_stream(data):
    total = sum(map(len, data))
    assert receive(frame(compress(data), total)) == (b"".join(data), True)


@given(parts, st.data())
def test_in_frames_a_compressed_stream_without_its_end_is_not_whole(data, draw):
    """Each frame is right, and END says the right number."""
    wire = b"".join(compress(data))
    cut = draw.draw(st.integers(0, len(wire) - 1))
    out, whole = receive(frame([wire[:cut]], sum(map(len, data))))
    assert not whole
    assert b"".join(data).startswith(out)


@given(parts, st.data())
def test_in_frames_a_changed_byte_is_an_error_or_changes_nothing(data, draw):
    wire = bytearray(b"".join(compress(data)))
    wire[draw.draw(st.integers(0, len(wire) - 1))] ^= draw.draw(st.integers(1, 255))
    out, whole = receive(frame([bytes(wire)], sum(map(len, data))))
    assert not whole or out == b"".join(data)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_in_frames_garbage_is_an_error(pieces):
    out, whole = receive(frame(pieces, 0))
    assert (out, whole) == (b"", False)


def test_a_frame_has_no_more_than_a_chunk_in_it():
    [fits, _] = compress([bytes(CHUNK)])
    [bomb, _] = compress([bytes(CHUNK + 1)])
    assert list(Intake(0, Unpacker()).feed(frame([fits], 0)[: 9 + len(fits)]))
    with pytest.raises(FrameError, match="more than 65536 bytes in it"):
        list(Intake(0, Unpacker()).feed(frame([bomb], 0)))


def test_frames_are_opened_one_at_a_time():
    """Of 64 KiB that are 100 MB inside only what is asked for is there."""
    packer = Packer(3)
    wire = frame([packer.pack(bytes(CHUNK)) for _ in range(2000)], 0)
    intake = Intake(0, Unpacker())
    opened = intake.feed(wire[: 1 << 16])
    assert len(next(opened)) == CHUNK
    assert intake.total == CHUNK


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_not_agreed_on_is_no_data(packed):
    """Compressed where nobody said so, and plain where it was to be compressed."""
    kind = frames.PACKED if packed else frames.DATA
    intake = Intake(0, None if packed else Unpacker())
    with pytest.raises(FrameError, match="has no place in this stream"):
        list(intake.feed(Writer().frame(kind, b"".join(compress([b"x"])))))


def test_without_a_library_it_is_told_what_to_install(monkeypatch):
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    zstd.library.cache_clear()
    with pytest.raises(Failure, match=r"has no zstd .* install superd\[zstd\] there"):
        zstd.library()
