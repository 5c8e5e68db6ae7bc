"""What an audit has found: each test is named for what went wrong.

The rule of the file: an adversary has no more than a client has, and an origin of his own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
from functools import partial
from time import monotonic

import pytest
from proxy.cache_rig import (
    LASTING,
    OLD,
    TAG,
    asked,
    gate,
    in_order,
    said,
    unchanged,
    url,
    with_cache,
)
from proxy.client import DEADLINE, ask, dialled, request
from proxy.origins import OK, answers, endless, reply
from proxy.origins import bare as spelt

from superd.handlers.cache import policy
from superd.handlers.cache.claims import Claims
from superd.handlers.cache.keyfile import LARGEST, LONGEST_META
from superd.handlers.cache.store import Store
from superd.handlers.forward import apart
from superd.handlers.forward.chunks import Chunked

CHUNKED = "Transfer-Encoding: chunked"
BEHIND = "Cache-Control: max-age=1, stale-while-revalidate=1000"
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def cached(looping, daemons):
    return partial(with_cache, looping, daemons, name="audited")


# -- bodies -----------------------------------------------------------------------------


def test_a_malformed_body_of_a_refused_request_is_no_bug_of_ours(proxy):
    """It ended as one, and four of them throttled the service for everybody."""
    use = proxy(deny=["*"])
    for _ in range(2):
        with dialled(use.address) as peer:
            bad = request("http://a.test/", CHUNKED, method="POST") + b"ZZZ\r\n"
            assert peer.send(bad).answer().status == 403
            assert peer.is_closed


def test_a_malformed_body_beside_the_counters_is_no_bug_of_ours(proxy):
    use = proxy(status="/counters")
    with dialled(use.address) as peer:
        bad = request("/counters", CHUNKED, host="x") + b"ZZZ\r\n"
        assert peer.send(bad).answer().status == 200
        assert peer.is_closed


def test_an_answer_that_is_cut_for_the_body_of_its_request_does_not_look_whole(
    proxy, origin
):
    """The host's connection was closed by us, and that was taken for the host's end."""

    def play(connection):
        connection.head()
        connection.send(spelt() + b"first")
        connection.wait_gone()

    server = origin(play)
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), CHUNKED, method="POST") + b"1\r\na\r\n")
        assert peer.until(b"first") is not None
        assert b"0\r\n\r\n" not in peer.send(b"ZZZ\r\n").read_to_end()


def test_an_answer_whose_process_is_killed_does_not_look_whole(bare, origin):
    """To a peer of HTTP/1.0 the end of the connection was that of the answer."""

    def play(connection):
        connection.request()
        connection.send(spelt() + b"first")
        connection.wait_gone()

    server = origin(play)
    with bare() as served:
        served.send(request(server.url(), version="1.0"))
        served.read_until(b"first")
        os.kill(served.pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            served.sock.recv(1)


@pytest.mark.parametrize(
    ("piece", "costly"),
    [
        (b"1\r\na\r\n", True),
        (b"1;abc=def\r\na\r\n", True),
        (b"100\r\n" + bytes(256) + b"\r\n", False),
    ],
)
def test_of_a_body_of_crumbs_little_is_read_at_a_time(piece, costly):
    """One peer who sent such a body made all others of the loop wait for 0.7 s."""
    body = Chunked()
    body.feed(piece * 64)
    assert body.costly is costly
    body.feed(b"ffffff\r\n")
    body.feed(bytes(1000))
    assert not body.costly


# -- where it goes ----------------------------------------------------------------------


def test_a_kept_connection_to_a_parent_leads_to_no_private_address(proxy, origin):
    """The address was judged with the connection, and not with each request."""
    parent = origin(answers(OK))
    use = proxy(allow_private=False, upstream=parent.authority)
    assert ask(use, "http://a.test/").status == 200
    assert ask(use, "http://169.254.169.254/").status == 403
    assert ask(use, "http://[::1]/").status == 403
    assert len(parent.requests) == 1


def test_a_kept_connection_to_a_parent_is_none_to_the_host_it_is_on(looping, origin):
    parent = origin(answers(OK))
    to = {"proxy": parent.authority, "except": [parent.authority]}
    use = looping(allow_private=False, upstream=to)
    assert ask(use, "http://a.test/").status == 200
    assert ask(use, parent.url("/of-the-parent")).status == 403
    assert len(parent.requests) == 1


@pytest.mark.parametrize("wanted", ["h2c", "websocket, H2C", "HTTP/2.0"])
def test_no_upgrade_leads_past_the_rules_in_another_http(looping, origin, wanted):
    """A path that is denied was asked for in the stream behind a 101."""
    server = origin(answers(OK))
    lines = "Connection: Upgrade", f"Upgrade: {wanted}", "HTTP2-Settings: AAMAAABk"
    assert ask(looping(upgrade=True), server.url(), *lines).status == 200
    assert not server.last.names & {"upgrade", "http2-settings", "connection"}


# -- the cache --------------------------------------------------------------------------


def test_the_cookie_of_a_validation_is_for_the_peer_that_asked(cached, origin):
    fresh = unchanged(TAG, LASTING, "Set-Cookie: id=of-the-second")
    server = origin(in_order(reply(b"one", TAG, *OLD), fresh))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).the("set-cookie") == b"id=of-the-second"
    third = ask(use, url(server))
    assert (third.body, said(third)) == (b"one", "hit")
    assert "set-cookie" not in third.names


@pytest.mark.parametrize(("names", "visits"), [(16, 1), (17, 2)])
def test_a_vary_without_end_holds_up_no_loop(cached, origin, names, visits):
    """Eleven thousand names, and eight answers by them, took 8 s for each request."""
    vary = "Vary: " + ", ".join(f"x-{number}" for number in range(names))
    server = origin(answers(reply(b"one", LASTING, vary)))
    use = cached()
    for _ in range(2):
        assert ask(use, url(server)).body == b"one"
    assert asked(server) == visits


def test_what_is_read_of_a_key_for_one_request_is_bounded(tmp_path):
    """64 answers with heads of 60 KiB took 150 ms for each request."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    store = Store(str(folder), 1 << 26, 1 << 20)
    for _ in range(8):
        with store.begin(b"http://a/") as draft:
            assert draft.keep(bytes(LONGEST_META)) is not None
    sizes = [one.stat().st_size for one in folder.glob("??/*")]
    assert max(sizes) <= LARGEST <= 1 << 20


def test_an_endless_answer_to_a_validation_behind_is_given_up(cached, origin):
    """Nobody was there whose leaving would have ended it."""
    first = reply(b"one", TAG, BEHIND, "Age: 1")
    head = spelt(LASTING, "Transfer-Encoding: chunked")
    ceaseless = endless(head, b"1000\r\n" + bytes(4096) + b"\r\n", limit=1 << 40)

    def play(connection):
        connection.request()
        connection.send(first)
        connection.half_close()
        connection.wait_gone()

    server = origin(play, ceaseless)
    use = cached(cache={"largest": "64k"})
    ask(use, url(server))
    assert said(ask(use, url(server))).startswith("hit; detail=stale")
    server.wait_connections(2)
    server.join()


def test_a_worker_of_a_pool_whose_peer_has_gone_keeps_no_claim(pooled, daemons, origin):
    """Its loop stood still with it, and whoever else asked the same waited for nothing."""
    use = with_cache(pooled, daemons, name="audited-pool")
    with gate() as held:
        late = held(reply(b"two", TAG, BEHIND, "Age: 1"))
        server = origin(in_order(reply(b"one", TAG, BEHIND, "Age: 1"), late))
        ask(use, url(server))
        with dialled(use.address) as peer:
            assert peer.send(request(url(server))).answer().body == b"one"
            server.wait_requests(2)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    key = policy.key_of(b"GET", url(server).encode())
    claims = Claims(str(daemons._factory.folder / "audited-pool"))
    assert asyncio.run(claims.wait_for(key, monotonic() + DEADLINE / 2))


# -- passwords --------------------------------------------------------------------------


def test_who_tries_many_passwords_at_once_is_told_to_come_again():
    """Each took the connection of another until its turn came, though its peer had gone."""

    async def flood():
        go_on = threading.Event()
        try:
            assert not apart.is_busy()
            begun = [apart.begin(go_on.wait, DEADLINE) for _ in range(apart.BUSY)]
            assert apart.is_busy()
        finally:
            go_on.set()
        await asyncio.gather(*begun)
        await asyncio.sleep(0)
        assert not apart.is_busy()

    try:
        asyncio.run(flood())
    finally:
        apart.rest()
