"""What a relay in an event loop waits with: one epoll, which tells of resets as well."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
from contextlib import contextmanager
from select import POLLERR, POLLHUP, POLLIN, POLLOUT

import pytest
from inetd import DEADLINE
from relays import is_reset, pattern, reset

from superd.handlers.relay import resetting, watching
from superd.handlers.relay.both_ways import both_ways
from superd.handlers.relay.story import Tally
from superd.handlers.relay.watching import Watcher, ready
from superd.launcher.looping import make_loop

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
    assert not watching._epolls
    it.close()


def run(loop, main):
    return loop.run_until_complete(asyncio.wait_for(main, DEADLINE))


@contextmanager
def connected():
    """Give two ends of a connection; both do not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other = listener.accept()[0]
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


class Told:
    """What a watcher was told, and a way to wait for it."""

    def __init__(self):
        self.events = []
        self._more = asyncio.Event()
        self.watcher = Watcher(self._tell)

    def _tell(self, fd, events):
        self.events.append((fd, events))
        self._more.set()

    async def next(self):
        self._more.clear()
        self.events.clear()
        await self._more.wait()
        return self.events[0]


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


# -- watching -------------------------------------------------------------------------


def test_who_asks_for_nothing_hears_of_a_reset_and_not_of_bytes(loop):
    async def main():
        with connected() as (peer, ours):
            told = Told()
            told.watcher.register(ours.fileno(), 0)
            peer.send(b"bytes")
            await turns()
            assert told.events == []
            reset(peer)
            fd, events = await told.next()
            assert fd == ours.fileno()
            assert events & POLLERR
            told.watcher.close()

    run(loop, main())


def test_what_is_asked_for_can_be_changed(loop):
    async def main():
        with connected() as (peer, ours):
            told = Told()
            told.watcher.register(ours.fileno(), POLLIN)
            await turns()
            assert told.events == []
            told.watcher.register(ours.fileno(), POLLIN | POLLOUT)
            assert await told.next() == (ours.fileno(), POLLOUT)
            told.watcher.register(ours.fileno(), POLLIN)
            peer.send(b"x")
            assert await told.next() == (ours.fileno(), POLLIN)
            told.watcher.unregister(ours.fileno())
            told.events.clear()
            await turns()
            assert told.events == []
            told.watcher.close()

    run(loop, main())


def test_one_waits_for_room_and_another_for_bytes_of_another_connection(loop):
    async def main():
        with connected() as (peer, ours), connected() as (_, other):
            reading = asyncio.ensure_future(ready(ours.fileno(), POLLIN))
            await ready(other.fileno(), POLLOUT)
            assert not reading.done()
            peer.send(b"x")
            await reading

    run(loop, main())


def test_a_wait_that_is_cancelled_leaves_nothing(loop):
    async def main():
        with connected() as (_, ours):
            task = asyncio.ensure_future(ready(ours.fileno(), POLLIN))
            await turns()
            assert watching._epolls
            task.cancel()
            await asyncio.wait({task})
            assert not watching._epolls

    run(loop, main())


def test_a_connection_that_lives_on_without_its_number_is_told_of_no_more(loop):
    """As a launcher's copy lives when a worker has closed its own too early."""

    async def main():
        with connected() as (peer, ours), connected() as (_, other):
            told = Told()
            quiet = Told()
            quiet.watcher.register(other.fileno(), POLLIN)
            told.watcher.register(ours.fileno(), POLLIN)
            copy = socket.socket(fileno=os.dup(ours.fileno()))
            ours.close()
            told.watcher.close()
            peer.send(b"x")
            with copy:
                await turns()
                assert told.events == quiet.events == []
                (epoll,) = watching._epolls.values()
                assert epoll._epoll.poll(0) == []
            quiet.watcher.close()

    run(loop, main())


def test_a_number_that_is_another_connections_by_now_is_left_alone(loop):
    async def main():
        with connected() as (_, ours), connected() as (peer, new):
            late, told = Told(), Told()
            late.watcher.register(ours.fileno(), POLLIN)
            with socket.socket(fileno=os.dup(ours.fileno())):
                os.dup2(new.fileno(), ours.fileno())
                told.watcher.register(ours.fileno(), POLLIN)
                late.watcher.close()
                peer.send(b"x")
                assert await told.next() == (ours.fileno(), POLLIN)
                assert late.events == []
                told.watcher.close()

    run(loop, main())


def test_many_that_are_ready_are_served_in_turns(loop):
    async def main():
        size = watching._TURN * 2
        with connected() as (peer, ours):
            copies = [os.dup(ours.fileno()) for _ in range(size)]
            served = set()
            watcher = Watcher(lambda fd, _events: served.add(fd))
            for fd in copies:
                watcher.register(fd, POLLIN)
            peer.send(b"x")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first = len(served)
            await turns()
            assert first <= watching._TURN * 2
            assert served == set(copies)
            watcher.close()
            for fd in copies:
                os.close(fd)

    run(loop, main())


# -- both ways ------------------------------------------------------------------------


@contextmanager
def relayed(loop, idle=DEADLINE):
    """Give the peer, the backend, what is counted, and the task of a relay."""
    with connected() as (peer, front), connected() as (back, backend):
        resetting.arm(back)
        tally = Tally()
        coroutine = both_ways(front, back, tally, idle, idle)
        yield peer, backend, back, tally, loop.create_task(coroutine)


async def receive(loop, sock):
    parts = []
    while data := await loop.sock_recv(sock, 1 << 18):
        parts.append(data)
    return b"".join(parts)


async def send(loop, sock, data):
    await loop.sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


def test_many_mib_both_ways_are_whole(loop):
    async def main():
        up, down = pattern(8 << 20, 1), pattern(6 << 20, 3)
        with relayed(loop) as (peer, backend, _, tally, task):
            got = await asyncio.gather(
                receive(loop, backend),
                receive(loop, peer),
                send(loop, peer, up),
                send(loop, backend, down),
            )
            assert got[0] == up
            assert got[1] == down
            assert await task == "closed"
            assert (tally.up, tally.down, tally.answered) == (len(up), len(down), True)

    run(loop, main())


@pytest.mark.parametrize("who", ["peer", "backend"])
@pytest.mark.parametrize("half", [False, True])
def test_a_reset_of_either_side_ends_it_at_once(loop, who, half):
    async def main():
        with relayed(loop) as (peer, backend, back, _, task):
            one, other = (peer, backend) if who == "peer" else (backend, peer)
            one.send(b"x")
            assert await loop.sock_recv(other, 10) == b"x"
            if half:
                one.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(other, 10) == b""
            reset(one)
            assert await task == f"{who}-reset"
            back.close()
            other.setblocking(True)
            if half:
                poller = select.poll()
                poller.register(other, 0)
                assert poller.poll(DEADLINE * 1000)[0][1] & (POLLERR | POLLHUP)
            else:
                assert is_reset(other) == (True, b"")

    run(loop, main())


def test_nothing_moves_and_it_ends(loop):
    async def main():
        with relayed(loop, idle=0.1) as (peer, _, _, _, task):
            assert await task == "idle"
            peer.setblocking(True)
            assert is_reset(peer)[0]

    run(loop, main())


def test_a_relay_that_has_ended_is_gone_without_the_collector(loop):
    async def main():
        with relayed(loop) as (peer, backend, _, _, task):
            peer.shutdown(socket.SHUT_WR)
            backend.shutdown(socket.SHUT_WR)
            assert await task == "closed"
        gc.collect()
        gc.disable()
        try:
            with relayed(loop) as (peer, backend, _, _, task):
                peer.shutdown(socket.SHUT_WR)
                backend.shutdown(socket.SHUT_WR)
                assert await task == "closed"
            found = [type(one).__name__ for one in gc.get_objects()]
        finally:
            gc.enable()
        assert not {"_Relaying", "Copying", "Flow", "Watcher"}.intersection(found)

    run(loop, main())


def test_a_relay_that_is_cancelled_has_counted_and_watches_nothing(loop):
    async def main():
        with relayed(loop) as (peer, backend, _, tally, task):
            peer.send(b"12345")
            assert await loop.sock_recv(backend, 10) == b"12345"
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert tally.up == 5
            assert not watching._epolls

    run(loop, main())


def test_a_peer_whose_number_is_another_peers_is_not_read_from(loop):
    """A worker that is told KILL closes it first, and cancels the task then."""

    async def main():
        with (
            connected() as (peer, front),
            connected() as (back, backend),
            connected() as (stranger, new),
        ):
            task = loop.create_task(both_ways(front, back, Tally(), 9.0, 9.0))
            peer.send(b"x")
            assert await loop.sock_recv(backend, 10) == b"x"
            with socket.socket(fileno=os.dup(front.fileno())):  # a launcher's
                number = front.detach()
                os.dup2(new.fileno(), number)
                stranger.send(b"private")
                peer.send(b"y")
                await turns()
                task.cancel()
                await asyncio.wait({task})
                os.close(number)
            assert new.recv(10) == b"private"
            with pytest.raises(BlockingIOError):
                backend.recv(10)

    run(loop, main())
