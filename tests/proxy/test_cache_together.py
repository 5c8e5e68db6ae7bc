"""Many who ask the same at once: one is asked for, and nobody waits who need not.

The rule of the file: no time is asserted. The origin holds its answers until it was asked
as often as it should be, so what waits too long never gets an answer.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from functools import partial

import pytest
from daemon_under_test import eventually
from proxy.cache_rig import (
    LASTING,
    OLD,
    TAG,
    Crowd,
    asked,
    gate,
    in_order,
    said,
    unchanged,
    url,
    with_cache,
)
from proxy.client import ask, dialled, request
from proxy.origins import LINGER_NOT, answers, bare, reply
from proxy.under_test import starter

BODY = bytes(range(256)) * 1024
"""256 KiB: it goes to a file, and takes several pieces."""
MANY = 50


@pytest.fixture
def cached(proxy, daemons):
    """Give a proxy with a cache."""
    return partial(with_cache, proxy, daemons, keys={"limits": {"connections": 200}})


@pytest.fixture
def pass_by(origin):
    """Ask for something else, so that those before are under way: a loop has one queue."""
    server = origin(answers(reply(b"", "Cache-Control: no-store")))
    return lambda use: ask(use, url(server))


def crowd(use, place, count=MANY, *lines):
    """Ask the same, each on a connection of its own; all have been sent when it returns."""
    sent = threading.Barrier(count + 1)

    def work(number):
        with dialled(use.address) as peer:
            peer.send(request(place, *lines))
            sent.wait(10)
            return peer.answer()

    clients = Crowd(count, work)
    sent.wait(10)
    return clients


@pytest.mark.parametrize("body", [b"one", BODY], ids=["small", "large"])
def test_one_of_many_asks_the_origin(cached, origin, body, pass_by):
    with gate() as held:
        server = origin(answers(held(reply(body, LASTING))))
        use = cached()
        clients = crowd(use, url(server), MANY)
        server.wait_requests(1)
        pass_by(use)
        held.open()
        found = clients.join()
    assert all(one.body == body for one in found)
    assert asked(server) == 1
    told = {said(one) for one in found}
    assert told <= {"fwd=miss; stored", "hit; collapsed", "hit"}


def test_one_of_many_asks_for_two_modes(cached, origin, daemons):
    """A claim is one of the folder, and not of a process."""
    with gate() as held:
        server = origin(answers(held(reply(b"one", LASTING))))
        use = cached()
        both = [
            type(use)(use.daemon.address(mode), mode, use.daemon)
            for mode in ("loop", "process")
        ]
        clients = [crowd(one, url(server), 10) for one in both]
        server.wait_requests(1)
        held.open()
        assert all(one.body == b"one" for each in clients for one in each.join())
    assert asked(server) == 1


def test_one_of_many_validates_what_is_stale(cached, origin):
    with gate() as held:
        steps = [reply(b"one", TAG, *OLD), held(unchanged(TAG, LASTING))]
        server = origin(in_order(*steps))
        use = cached()
        ask(use, url(server))
        clients = crowd(use, url(server), 20)
        server.wait_requests(2)
        held.open()
        assert all(one.body == b"one" for one in clients.join())
    assert asked(server) == 2


def meets(count):
    """Answer nobody but the first until that many are waiting; tell the most there were."""
    lock = threading.Condition()
    waiting = [0, 0]

    def answer(_):
        with lock:
            waiting[0] += 1
            waiting[1] += 1
            lock.notify_all()
            if waiting[1] > 1:
                lock.wait_for(lambda: waiting[0] >= count, 8)
                assert waiting[0] >= count, waiting
        return reply(b"one", "Cache-Control: no-store")

    return answer


def test_what_cannot_be_kept_is_asked_for_side_by_side(looping, daemons, origin):
    """All but the first are at the origin at the same time: none waits for another."""
    server = origin(answers(meets(20)))
    use = with_cache(looping, daemons, cache={"collapse": "60s"})
    assert all(one.body == b"one" for one in crowd(use, url(server), 20).join())
    assert asked(server) == 20


def test_what_cannot_be_kept_is_asked_for_by_each_process(daemons, origin):
    server = origin(answers(reply(b"one", "Cache-Control: no-store")))
    use = with_cache(starter(daemons, "process"), daemons)
    assert all(one.body == b"one" for one in crowd(use, url(server), 20).join())
    assert asked(server) == 20


def test_what_could_not_be_kept_is_not_waited_for_again(looping, daemons, origin):
    """The origin holds all of the second round: the first of it is waited for by none."""
    with gate() as held:
        secret = reply(b"one", "Cache-Control: no-store")
        server = origin(in_order(secret, held(secret)))
        use = with_cache(looping, daemons)
        ask(use, url(server))
        clients = crowd(use, url(server), 10)
        server.wait_requests(11)
        held.open()
        assert all(one.body == b"one" for one in clients.join())


def test_what_can_be_kept_again_is_waited_for_again(looping, daemons, origin, pass_by):
    """An error that passes has not to be paid for until the process ends."""
    with gate() as held:
        lasting = reply(b"one", "Cache-Control: max-age=1", "Age: 2", TAG)
        steps = [reply(b"", status="503 Busy"), lasting, held(reply(b"two", LASTING))]
        server = origin(in_order(*steps))
        use = with_cache(looping, daemons)
        assert ask(use, url(server)).status == 503
        assert ask(use, url(server)).body == b"one"
        clients = crowd(use, url(server), 10)
        server.wait_requests(3)
        pass_by(use)
        held.open()
        assert all(one.body == b"two" for one in clients.join())
    assert asked(server) == 3


@pytest.mark.parametrize("line", ["Range: bytes=0-0", 'If-None-Match: "a"'])
def test_a_part_says_nothing_of_the_whole(looping, daemons, origin, pass_by, line):
    """Whoever asked for a part, or whether it is new, leaves the others together."""
    part = reply(b"o", "Content-Range: bytes 0-0/3", status="206 Part")
    first = part if line.startswith("Range") else unchanged(TAG)
    with gate() as held:
        server = origin(in_order(first, held(reply(b"one", LASTING, TAG))))
        use = with_cache(looping, daemons)
        assert ask(use, url(server), line).status in {206, 304}
        clients = crowd(use, url(server), 10)
        server.wait_requests(2)
        pass_by(use)
        held.open()
        assert all(one.body == b"one" for one in clients.join())
    assert asked(server) == 2


@pytest.mark.parametrize("line", ["Range: bytes=0-0", 'If-None-Match: "a"'])
def test_who_asks_for_parts_waits_for_no_other_who_does(cached, origin, line):
    """Nobody is answered before all of them are at the origin."""
    with gate() as held:
        part = reply(b"o", "Content-Range: bytes 0-0/3", status="206 Part")
        server = origin(answers(held(part)))
        use = cached(cache={"collapse": "60s"})
        clients = crowd(use, url(server), 10, line)
        server.wait_requests(10)
        held.open()
        assert {one.status for one in clients.join()} == {206}


def test_who_asks_for_a_part_waits_for_who_brings_the_whole(looping, daemons, origin):
    with gate() as held:
        server = origin(answers(held(reply(b"one", LASTING))))
        use = with_cache(looping, daemons, cache={"collapse": "60s"})
        whole = crowd(use, url(server), 1)
        server.wait_requests(1)
        parts = crowd(use, url(server), 5, "Range: bytes=1-1")
        held.open()
        assert {one.body for one in whole.join()} == {b"one"}
        assert {one.body for one in parts.join()} == {b"n"}
    assert asked(server) == 1


def test_one_of_many_asks_for_the_workers_of_a_pool(pooled, daemons, origin):
    workers = {"workers": 4, "max_workers": 4}
    with gate() as held:
        server = origin(answers(held(reply(BODY, LASTING))))
        use = with_cache(pooled, daemons, keys=workers)
        clients = crowd(use, url(server), 12)
        server.wait_requests(1)
        held.open()
        assert all(one.body == BODY for one in clients.join())
    assert asked(server) == 1


@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
def test_what_is_too_large_is_waited_for_only_until_that_is_known(cached, origin, told):
    """The first one's answer never ends; the others have theirs all the same."""
    size = 1 << 21
    lines = [f"Content-Length: {size}"] if told else ["Connection: close"]
    with gate() as held:

        def slow(connection):
            connection.request()
            connection.send(bare(LASTING, *lines))
            connection.send(bytes(size - 1))
            held.wait()

        def play(connection):
            connection.request()
            connection.send(reply(bytes(size), LASTING, "Connection: close"))

        server = origin(slow, play)
        use = cached(cache={"largest": 1 << 20, "collapse": "60s"})
        with dialled(use.address) as first:
            first.send(request(url(server)))
            assert first.until(b"\r\n\r\n")
            assert len(first.exactly(size - 1)) == size - 1
            clients = crowd(use, url(server), 3)
            assert all(len(one.body) == size for one in clients.join())


def test_who_leaves_in_the_middle_takes_nobody_along(cached, origin):
    with gate() as held, gate() as second:

        def play(connection):
            connection.request()
            connection.send(bare(LASTING, f"Content-Length: {len(BODY)}"))
            connection.send(BODY[: 1 << 17])
            held.wait()
            connection.send(BODY[1 << 17 :])

        def whole(connection):
            connection.request()
            second.wait()
            connection.send(reply(BODY, LASTING, "Connection: close"))

        server = origin(play, whole)
        use = cached()
        with dialled(use.address) as first:
            first.send(request(url(server)))
            assert first.until(b"\r\n\r\n")
            clients = crowd(use, url(server), 10)
            first.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        held.open()
        second.open()
        assert all(one.body == BODY for one in clients.join())
        assert said(ask(use, url(server))) == "hit"


def test_who_leaves_before_the_answer_takes_nobody_along(cached, origin):
    with gate() as held:
        server = origin(answers(held(reply(b"one", LASTING))))
        use = cached()
        with dialled(use.address) as first:
            first.send(request(url(server)))
            server.wait_requests(1)
            clients = crowd(use, url(server), 10)
            first.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        server.wait_requests(2)
        held.open()
        assert all(one.body == b"one" for one in clients.join())


def test_nobody_waits_where_the_operator_wants_it_so(cached, origin):
    """Each of them is at the origin before one of them is answered."""
    with gate() as held:
        server = origin(answers(held(reply(b"one", LASTING))))
        use = cached(cache={"collapse": 0})
        clients = crowd(use, url(server), 10)
        server.wait_requests(10)
        held.open()
        assert all(one.body == b"one" for one in clients.join())


def test_nobody_waits_longer_than_the_operator_wants(cached, origin):
    with gate() as held:
        server = origin(answers(held(reply(b"one", LASTING))))
        use = cached(cache={"collapse": "100ms"})
        clients = crowd(use, url(server), 10)
        server.wait_requests(10)
        held.open()
        assert all(one.body == b"one" for one in clients.join())


def test_when_the_process_of_the_first_is_killed_the_others_go_on(daemons, origin):
    use = with_cache(starter(daemons, "process"), daemons, cache={"collapse": "60s"})
    with gate() as held:

        def first(connection):
            connection.request()
            connection.wait_gone()

        server = origin(first, answers(held(reply(b"one", LASTING))))
        with dialled(use.address) as peer:
            peer.send(request(url(server)))
            server.wait_requests(1)
            name = peer.sock.getsockname()
            line = use.daemon.wait_log(
                rf"accept service=process .*peer={re.escape(name[0])}:{name[1]} "
            )
            clients = crowd(use, url(server), 10)
            os.kill(int(re.search(r" pid=(\d+)", line)[1]), signal.SIGKILL)
            assert peer.answer() is None
        # How many more, chance decides: who has waited once asks for itself.
        server.wait_requests(2)
        held.open()
        assert all(one.body == b"one" for one in clients.join())


def test_different_answers_are_not_mixed_up(cached, origin):
    """Sixteen variants and as many addresses, asked for all at once, several times."""

    def answer(one):
        kind = one.the("x-kind")
        return reply(one.target + b" " + kind, LASTING, "Vary: X-Kind")

    server = origin(answers(answer))
    use = cached()
    url(server)

    def work(number):
        with dialled(use.address) as peer:
            for step in range(16):
                path, kind = (number + step) % 4, (number * 3 + step) % 4
                lines = request(url(server, f"/{path}"), f"X-Kind: {kind}")
                wanted = f"{server.place}/{path} {kind}".encode()
                assert peer.send(lines).answer().body == wanted

    Crowd(16, work).join()


def test_no_answer_is_renewed_twice_by_who_was_slow_to_read(looping, daemons, origin):
    """What was stale when it was begun may be fresh when the slow one has it all."""
    size = 10 << 20
    lines = ["Cache-Control: max-age=50, stale-while-revalidate=900", "Age: 100", TAG]
    fresh = unchanged(TAG, LASTING)
    server = origin(in_order(reply(bytes(size), *lines), fresh, fresh))
    use = with_cache(looping, daemons)
    ask(use, url(server))
    with dialled(use.address) as slow:
        slow.send(request(url(server)))
        assert slow.until(b"\r\n\r\n")
        assert len(ask(use, url(server)).body) == size
        eventually(
            lambda: said(ask(use, url(server), method="HEAD")) == "hit", "renewed"
        )
        assert len(slow.exactly(size)) == size
        assert (
            said(slow.send(request(url(server), method="HEAD")).answer("HEAD")) == "hit"
        )
    ask(use, url(server, "/other"))
    assert asked(server) == 2


def test_what_is_validated_each_time_is_not_waited_for(looping, daemons, origin):
    with gate() as held:
        steps = [reply(b"one", TAG, "Cache-Control: no-cache"), held(unchanged(TAG))]
        server = origin(in_order(*steps))
        use = with_cache(looping, daemons, cache={"collapse": "60s"})
        ask(use, url(server))
        clients = crowd(use, url(server), 10)
        server.wait_requests(11)
        held.open()
        clients.join()
