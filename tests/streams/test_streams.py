"""The streams of loop mode: asyncio's to the byte and to the exception."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import selectors
import socket
import struct
import termios
import time

import pytest
from daemon_under_test import DEADLINE, read_all, ready
from hypothesis import given, settings
from hypothesis import strategies as st

from superd.launcher.looping import make_loop
from superd.streams import reader as reading
from superd.streams import writer as writing
from superd.streams.reader import BUDGET, CHUNK, COST, Reader
from superd.streams.writer import HIGH, LOW, Writer


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname(), DEADLINE)
        return peer, server.accept()[0]


def unix():
    peer, ours = socket.socketpair()
    peer.settimeout(DEADLINE)
    return peer, ours


def reset(peer):
    """Close so that the other side gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


KINDS = ["epoll", "poll", "select", "uvloop"]

try:
    # libuv opens a pipe at its first loop and keeps it as long as the process lives.
    make_loop("uvloop").close()
    HAS_UVLOOP = True
except ImportError:
    HAS_UVLOOP = False


@pytest.fixture(params=KINDS)
def loop(request):
    if request.param == "uvloop" and not HAS_UVLOOP:
        pytest.skip("uvloop is not installed")
    it = make_loop(request.param)
    it.set_exception_handler(lambda _loop, context: pytest.fail(str(context)))
    yield it
    it.close()


def run(loop, main, make=unix, **keys):
    """Run main(peer, reader, writer) over a fresh connection."""
    peer, ours = make()
    with peer, ours:
        ours.setblocking(False)
        reader = Reader(ours, loop, **keys)
        writer = Writer(ours, loop, reader)
        try:
            return loop.run_until_complete(
                asyncio.wait_for(main(peer, reader, writer), DEADLINE)
            )
        finally:
            writer.release()


def inbox(sock):
    """Count the bytes that the kernel holds for us (FIONREAD)."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]


# -- the same as asyncio's ------------------------------------------------------------


class Recorder(socket.socket):
    """A socket that remembers what it received."""

    def recv(self, *args):
        data = super().recv(*args)
        self.received.append(data)
        return data


async def outcome(call):
    """Return what a call gave, comparable between two implementations."""
    try:
        result = await call
    except asyncio.IncompleteReadError as error:
        return "incomplete", error.partial, error.expected
    except asyncio.LimitOverrunError as error:
        return "overrun", str(error), error.consumed
    except ValueError as error:
        return "ValueError", str(error)
    except (RuntimeError, OSError, StopAsyncIteration) as error:
        return type(error).__name__, str(error)
    return result


READS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from([-1, 0, 1, 3, 10, 100])),
    st.tuples(st.just("readexactly"), st.sampled_from([-1, 0, 1, 5, 20])),
    st.tuples(st.just("readuntil"), st.sampled_from([b"\n", b"ab", b"\r\n", b""])),
    st.just(("readline",)),
    st.just(("__anext__",)),
)
CHUNKS = st.lists(
    st.text("ab\r\n", min_size=1, max_size=25).map(str.encode), max_size=12
)


async def read_ours(ops, chunks, limit):
    """Run the calls; a chunk is sent whenever one of them waits."""
    peer, ours = socket.socketpair()
    sock = Recorder(fileno=ours.detach())
    sock.received = []
    sock.setblocking(False)
    reader = Reader(sock, asyncio.get_running_loop(), limit)
    left = list(chunks)
    found = []
    with peer, sock:
        for early, (name, *args) in ops:
            for _ in range(min(early, len(left))):
                peer.send(left.pop(0))
            task = asyncio.ensure_future(outcome(getattr(reader, name)(*args)))
            while not task.done():
                await asyncio.sleep(0)
                if reader._waiter is None or ready([sock.fileno()], 0):
                    continue
                if left:
                    peer.send(left.pop(0))
                else:
                    peer.shutdown(socket.SHUT_WR)
            found.append(task.result())
        reader.end()
    return found, sock.received


async def read_theirs(ops, received, limit):
    """Run the calls on asyncio's reader; it is fed what ours received, when it waits."""
    reader = asyncio.StreamReader(limit)
    received = iter(received)
    found = []
    for _, (name, *args) in ops:
        task = asyncio.ensure_future(outcome(getattr(reader, name)(*args)))
        while not task.done():
            if reader._waiter is not None and not reader._waiter.done():
                data = next(received)
                if data:
                    reader.feed_data(data)
                else:
                    reader.feed_eof()
            await asyncio.sleep(0)
        found.append(task.result())
    return found, list(received)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), READS), max_size=15),
    CHUNKS,
    st.sampled_from([3, 16, 1 << 16]),
)
def test_reading_gives_what_asyncio_gives_and_receives_when_asyncio_waits(
    ops, chunks, limit
):
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    try:
        ours, received = loop.run_until_complete(read_ours(ops, chunks, limit))
        theirs, unused = loop.run_until_complete(read_theirs(ops, received, limit))
    finally:
        loop.close()
    assert ours == theirs
    assert unused == []


WRITES = st.one_of(
    st.tuples(st.just("write"), st.binary(max_size=500)),
    st.tuples(st.just("write"), st.binary(max_size=500).map(bytearray)),
    st.tuples(st.just("write"), st.binary(max_size=500).map(memoryview)),
    st.tuples(st.just("writelines"), st.lists(st.binary(max_size=50), max_size=4)),
    st.just(("drain",)),
    st.just(("drain",)),
    st.just(("can_write_eof",)),
    st.just(("is_closing",)),
    st.just(("write_eof",)),
    st.just(("close",)),
)


async def write_all(ops, make):
    peer, ours = socket.socketpair()
    ours.setblocking(False)
    found = []
    with peer, ours:
        writer, close = await make(ours)
        for name, *args in ops:
            try:
                result = getattr(writer, name)(*args)
                found.append(await result if asyncio.iscoroutine(result) else result)
            except (RuntimeError, OSError) as error:
                found.append((type(error).__name__, str(error)))
        writer.close()
        await writer.wait_closed()
        found.append(read_all(peer))
        close()
    return found


async def make_ours(sock):
    loop = asyncio.get_running_loop()
    writer = Writer(sock, loop, Reader(sock, loop))
    return writer, writer.release


async def make_theirs(sock):
    _, writer = await asyncio.open_connection(sock=sock)
    return writer, lambda: None


@settings(max_examples=200, deadline=None)
@given(st.lists(WRITES, max_size=12))
def test_writing_does_what_asyncio_does(ops):
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    try:
        ours = loop.run_until_complete(write_all(ops, make_ours))
        theirs = loop.run_until_complete(write_all(ops, make_theirs))
    finally:
        loop.close()
    assert ours == theirs


def test_what_is_no_bytes_is_a_type_error_as_asyncios(loop):
    async def main(_peer, _reader, writer):
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                writer.write(wrong)

    run(loop, main)


# -- reading --------------------------------------------------------------------------


def test_a_read_waits_for_the_peer(loop):
    async def main(peer, reader, _writer):
        task = asyncio.ensure_future(reader.read(100))
        await asyncio.sleep(0)
        assert not task.done()
        peer.send(b"hello")
        assert await task == b"hello"
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read(100) == b""
        assert reader.at_eof()

    run(loop, main)


def test_nothing_is_received_that_was_not_asked_for(loop):
    async def main(peer, reader, _writer):
        task = asyncio.ensure_future(reader.readexactly(3))
        await asyncio.sleep(0)
        peer.send(b"x" * 1000)
        assert await task == b"xxx"
        for _ in range(5):
            await asyncio.sleep(0)
        assert inbox(reader._sock) == 997
        assert await reader.read(10) == b"x" * 10
        assert inbox(reader._sock) == 987
        assert reader._buffer == b""

    run(loop, main)


def test_a_read_without_data_ends_at_its_deadline_and_the_next_one_works(loop):
    async def main(peer, reader, _writer):
        for late in (0.02, -1.0):
            with pytest.raises(TimeoutError):
                await reader.read(10, time.monotonic() + late)
        peer.send(b"late")
        assert await reader.read(10, time.monotonic() - 1.0) == b"late"
        task = asyncio.ensure_future(reader.read(10, time.monotonic() + DEADLINE))
        await asyncio.sleep(0)
        peer.send(b"in time")
        assert await task == b"in time"

    run(loop, main)


def test_a_cancelled_read_loses_nothing(loop):
    async def main(peer, reader, _writer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.01)
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        peer.send(b"data")
        assert ready([reader._fd], DEADLINE)
        for _ in range(2):
            if reader._buffer == b"":
                await asyncio.sleep(0)
        # Received, and the task has not seen it yet.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.read(10) == b"data"

    if not isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("the order within a turn is asyncio's")
    run(loop, main)


def test_two_reads_at_once_are_the_handlers_mistake(loop):
    async def main(peer, reader, _writer):
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another coroutine"):
            await reader.readline()
        peer.send(b"x")
        assert await task == b"x"

    run(loop, main)


def test_a_reset_is_a_connection_error_at_once_or_while_waiting(loop):
    async def waiting(peer, reader, writer):
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await task
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await reader.read(10)
        with pytest.raises(ConnectionResetError):
            await writer.drain()

    async def at_once(peer, reader, _writer):
        reset(peer)
        assert ready([reader._fd], DEADLINE)
        with pytest.raises(ConnectionResetError):
            await reader.readline()

    run(loop, waiting, tcp)
    run(loop, at_once, tcp)


def test_a_dead_network_is_a_peer_that_is_gone():
    error = reading.blame(OSError(errno.EHOSTUNREACH, "No route to host"))
    assert isinstance(error, ConnectionResetError)
    assert error.errno == errno.EHOSTUNREACH
    assert isinstance(reading.blame(TimeoutError(errno.ETIMEDOUT, "")), ConnectionError)
    other = OSError(errno.EIO, "")
    assert reading.blame(other) is other


def test_a_line_that_is_too_long_is_a_value_error_and_the_next_line_is_whole(loop):
    async def main(peer, reader, _writer):
        peer.send(b"x" * 100 + b"\nnext\n")
        with pytest.raises(ValueError, match="limit"):
            await reader.readline()
        peer.shutdown(socket.SHUT_WR)
        assert [line async for line in reader] == [b"next\n"]

    run(loop, main, limit=64)


def test_many_short_lines_are_read_in_linear_time_and_shared_fairly(loop):
    async def main(peer, reader, _writer):
        others = 0

        async def count():
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(count())
        peer.setblocking(False)
        lines = peer.send(b"\n" * CHUNK)
        for _ in range(lines):
            assert await reader.readline() == b"\n"
        task.cancel()
        assert others >= lines // 16 - 1
        assert reader._buffer == b""

    run(loop, main)


def test_what_is_there_can_be_had_without_waiting(loop):
    async def main(peer, reader, writer):
        assert reader.read_nowait(10) is None
        assert writer.is_drained()
        peer.send(b"hello")
        # Nothing was there when it was asked, so the next read waits for the loop.
        assert await reader.read(3) == b"hel"
        assert reader.read_nowait(10) == b"lo"
        assert reader.read_nowait(10) is None
        peer.send(b"more")
        assert reader.read_nowait(10) == b"more"
        peer.close()
        assert reader.read_nowait(10) == b""
        assert reader.read_nowait(10) == b""
        assert reader.at_eof()
        reader.spent = BUDGET
        assert reader.read_nowait(10) is None
        assert not writer.is_drained()
        assert await reader.read(10) == b""

    run(loop, main)


def test_a_read_after_one_without_waiting_sees_the_end_that_came_meanwhile(loop):
    async def main(_peer, reader, _writer):
        assert reader.read_nowait(10) is None
        reader.end()
        assert await reader.read(10) == b""

    run(loop, main)


def test_what_is_unsent_or_has_failed_is_not_drained(loop):
    async def main(peer, _reader, writer):
        fill(writer)
        assert not writer.is_drained()
        peer.close()
        with pytest.raises(ConnectionError):
            await writer.drain()
        assert not writer.is_drained()

    run(loop, main, tcp)


@pytest.mark.parametrize(
    ("size", "most"), [(1, BUDGET // COST), (CHUNK, BUDGET // (CHUNK + COST) + 1)]
)
def test_calls_that_succeed_at_once_give_way(loop, size, most):
    async def main(peer, reader, writer):
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        peer.setblocking(False)
        calls = 0
        seen = turns
        for _ in range(most * 3):
            peer.send(b"x" * size)
            assert len(await reader.readexactly(size)) == size
            calls += 1
            if turns != seen:
                seen = turns
                calls = 0
            assert calls <= most
        before = turns
        for _ in range(17):
            writer.write(b"x")
            await writer.drain()
        assert turns > before
        task.cancel()

    run(loop, main)


# -- writing --------------------------------------------------------------------------


MUCH = 1 << 24
"""More than the kernel takes for both ends: 4 MiB of tcp_wmem, and what tcp_rmem gives."""


def fill(writer, size=MUCH):
    """Write more than a socket takes; returns how much is unsent."""
    writer.write(b"y" * size)
    assert len(writer._buffer) > HIGH
    return len(writer._buffer)


async def take(peer, count=None):
    """Read as a peer in the same loop does; everything when no count is given."""
    peer.setblocking(False)
    got = 0
    loop = asyncio.get_running_loop()
    while count is None or got < count:
        data = await loop.sock_recv(peer, 1 << 16)
        if not data:
            break
        got += len(data)
    return got


@pytest.mark.parametrize("make", [unix, tcp])
def test_drain_waits_until_little_is_left(loop, make):
    async def main(peer, _reader, writer):
        fill(writer)
        task = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        assert not task.done()
        writer.close()
        taker = asyncio.ensure_future(take(peer))
        await task
        assert len(writer._buffer) <= LOW
        await writer.wait_closed()
        assert await taker == MUCH

    run(loop, main, make)


def test_a_drain_ends_at_its_deadline(loop):
    async def main(_peer, _reader, writer):
        fill(writer)
        with pytest.raises(TimeoutError):
            await writer.drain(time.monotonic() + 0.02)
        with pytest.raises(TimeoutError):
            await writer.sendfile(0, 0, 1, time.monotonic() + 0.02)

    run(loop, main)


def test_two_may_drain_and_one_may_be_cancelled(loop):
    async def main(peer, _reader, writer):
        fill(writer)
        tasks = [asyncio.ensure_future(writer.drain()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        taker = asyncio.ensure_future(take(peer))
        await tasks[1]
        await tasks[2]
        writer.close()
        await taker

    run(loop, main)


def test_a_peer_that_is_gone_shows_in_drain(loop):
    async def at_once(peer, _reader, writer):
        peer.close()
        writer.write(b"x")
        with pytest.raises(BrokenPipeError):
            await writer.drain()
        writer.write(b"y")
        assert writer.is_closing()
        writer.close()
        with pytest.raises(BrokenPipeError):
            await writer.wait_closed()

    async def waiting(peer, _reader, writer):
        fill(writer)
        task = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        reset(peer)
        with pytest.raises(ConnectionError):
            await task
        assert writer._buffer == b""

    run(loop, at_once)
    run(loop, waiting, tcp)


def test_half_close_lets_the_answer_come(loop):
    async def main(peer, reader, writer):
        unsent = fill(writer)
        assert unsent
        writer.write_eof()
        assert await take(peer) == MUCH
        peer.setblocking(True)
        peer.sendall(b"answer")
        assert await reader.read(10) == b"answer"
        with pytest.raises(RuntimeError):
            writer.write(b"more")

    run(loop, main, tcp)


def test_close_wakes_the_reader_and_the_peer_sees_the_end_though_the_handler_lives(
    loop,
):
    async def main(peer, reader, writer):
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        writer.write(b"bye")
        writer.close()
        assert await task == b""
        assert read_all(peer) == b"bye"
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        with pytest.raises(RuntimeError):
            await writer.sendfile(0, 0, 1)

    run(loop, main, tcp)


def test_wait_closed_before_close_waits_without_spinning(loop):
    async def main(_peer, _reader, writer):
        task = asyncio.ensure_future(writer.wait_closed())
        await asyncio.sleep(0)
        assert not writer._watched
        writer.close()
        await task

    run(loop, main)


@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_a_file_is_sent_after_what_was_written(loop, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(b"skip" + data)

    async def main(peer, _reader, writer):
        writer.write(b"head")
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        peer.setblocking(False)

        async def collect():
            received = bytearray()
            while data := await loop.sock_recv(peer, 1 << 16):
                received += data
            return bytes(received)

        task = asyncio.ensure_future(collect())
        try:
            assert await writer.sendfile(fd, 4, size + 99) == size
        finally:
            os.close(fd)
        writer.close()
        assert await task == b"head" + data

    run(loop, main, tcp)


def test_a_file_for_a_peer_that_is_gone_or_slow_is_told_from_a_broken_file(
    loop, tmp_path
):
    (tmp_path / "file").write_bytes(bytes(1 << 23))

    async def main(peer, _reader, writer):
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            with pytest.raises(TimeoutError):
                await writer.sendfile(fd, 0, 1 << 23, time.monotonic() + 0.05)
            peer.close()
            with pytest.raises(ConnectionError):
                await writer.sendfile(fd, 0, 1 << 23)
        finally:
            os.close(fd)

    async def bad(_peer, _reader, writer):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await writer.sendfile(1 << 19, 0, 5)

    run(loop, main, tcp)
    run(loop, bad)


def test_a_flush_gives_up_a_peer_that_takes_nothing(loop):
    async def main(peer, _reader, writer):
        fill(writer)
        with pytest.raises(TimeoutError):
            await writer.flush(0.05)
        taker = asyncio.ensure_future(take(peer, MUCH))
        await writer.flush(DEADLINE)
        assert await taker == MUCH

    run(loop, main)


def test_a_released_connection_holds_and_watches_nothing(loop):
    async def main(_peer, reader, writer):
        fill(writer)
        task = asyncio.ensure_future(reader.read(5))
        drain = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        writer.release()
        assert await task == b""
        await drain
        assert writer._buffer == b""
        assert not loop.remove_reader(reader._fd)
        assert not loop.remove_writer(reader._fd)
        writer.write(b"nobody")
        with pytest.raises(ConnectionResetError):
            await writer.drain()

    run(loop, main)


def test_whoever_still_works_on_a_released_connection_touches_no_other(loop, tmp_path):
    (tmp_path / "file").write_bytes(bytes(1 << 23))

    async def main(_peer, reader, writer):
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        sending = asyncio.ensure_future(writer.sendfile(fd, 0, 1 << 23))
        for _ in range(100):
            await asyncio.sleep(0)
        assert writer._watched
        reader.spent = BUDGET
        reading = asyncio.ensure_future(reader.readexactly(5))
        await asyncio.sleep(0)
        writer.release()
        reader._sock.close()
        # The next connection gets the lowest free number: the one that was just closed.
        one, two = socket.socketpair()
        with one, two:
            assert writer._fd in (one.fileno(), two.fileno())
            with pytest.raises(ConnectionResetError):
                await sending
            with pytest.raises(asyncio.IncompleteReadError):
                await reading
            assert ready([one.fileno(), two.fileno()], 0) == []
        os.close(fd)

    run(loop, main, tcp)


def test_extra_info_names_both_ends_also_of_a_peer_that_hung_up(loop):
    async def main(peer, reader, writer):
        sock = reader._sock
        here, there = sock.getsockname(), peer.getsockname()
        known = {"TCPREMOTEIP": there[0], "TCPREMOTEPORT": str(there[1])}
        writer = Writer(sock, loop, reader, lambda: known)
        assert writer.get_extra_info("socket") is sock
        assert writer.get_extra_info("peername") == there
        assert writer.get_extra_info("sockname") == here
        assert writer.get_extra_info("environment") is known
        assert writer.get_extra_info("cipher") is None
        assert writer.get_extra_info("cipher", 5) == 5
        reset(peer)
        assert ready([sock.fileno()], DEADLINE)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert writer.get_extra_info("peername") == there
        sock.close()
        assert writer.get_extra_info("sockname", 7) == 7

    run(loop, main, tcp)


def test_the_limits_are_asyncios():
    assert (HIGH, LOW) == (65536, 16384)
    assert reading.LIMIT == asyncio.streams._DEFAULT_LIMIT
    assert writing.STEP <= BUDGET
