"""What is done with stale answers, and what ends them: RFC 9111 4.2.4 and 4.4, RFC 5861."""

from __future__ import annotations

import socket
from functools import partial

import pytest
from daemon_under_test import eventually
from proxy.cache_rig import (
    LASTING,
    NEWER,
    OLD,
    TAG,
    asked,
    counted,
    gate,
    in_order,
    said,
    unchanged,
    url,
    with_cache,
)
from proxy.client import ask, dialled, request
from proxy.origins import (
    LINGER_NOT,
    answers,
    bare,
    chunked,
    closes,
    reply,
    resets,
    silent,
)
from proxy.under_test import starter

BUSY = reply(b"busy", status="503 Busy")


@pytest.fixture
def cached(proxy, daemons):
    """Give a proxy with a cache."""
    return partial(with_cache, proxy, daemons)


def stale(words, *lines):
    """Spell an answer that is 50 seconds too old."""
    return reply(b"one", f"Cache-Control: max-age=50, {words}", "Age: 100", *lines)


# -- the origin is gone ---------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["must-revalidate", "proxy-revalidate", "s-maxage=50", "no-cache"]
)
def test_what_must_be_validated_is_504_when_the_origin_is_gone(cached, origin, words):
    """RFC 9111 5.2.2.2: must-revalidate says so, and that it is 504."""
    server = origin(answers(stale(f"{words}, stale-if-error=900")))
    use = cached()
    ask(use, url(server))
    server.close()
    answer = ask(use, url(server))
    assert answer.status == 504
    assert answer.body != b"one"


def test_what_is_stale_is_not_given_when_the_origin_is_gone(cached, origin):
    server = origin(answers(reply(b"one", *OLD)))
    use = cached()
    ask(use, url(server))
    server.close()
    assert ask(use, url(server)).status == 502


def test_stale_if_error_stands_in_for_an_origin_that_is_gone(cached, origin):
    server = origin(answers(stale("stale-if-error=900")))
    use = cached()
    ask(use, url(server))
    server.close()
    for _ in range(2):
        answer = ask(use, url(server))
        assert (answer.status, answer.body) == (200, b"one")
        assert said(answer) == "hit; detail=stale"
    assert ask(use, url(server), "Cache-Control: max-age=9999").status == 502
    use.daemon.wait_log(rf"{server.place}.* status=200 .* cache=stale ")


@pytest.mark.parametrize(
    "play",
    [
        answers(BUSY),
        answers(reply(b"", status="500 No")),
        resets(),
        closes(),
        closes(b"HTTP/1.1 200"),
        answers(b"SSH-2.0\r\n\r\n"),
    ],
)
def test_stale_if_error_stands_in_for_an_error(cached, origin, play):
    # A connection of its own for the second, which has another play.
    first = stale("stale-if-error=900", "Connection: close")
    server = origin(answers(first), play)
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server))
    assert (answer.status, answer.body) == (200, b"one")


def test_stale_if_error_is_over_some_time(cached, origin):
    server = origin(in_order(stale("stale-if-error=20"), BUSY))
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server))
    assert (answer.status, answer.body) == (503, b"busy")


def test_stale_if_error_stands_in_for_an_origin_that_says_nothing(cached, origin):
    server = origin(answers(stale("stale-if-error=900", "Connection: close")), silent)
    use = cached(timeouts={"reply": 0.3})
    ask(use, url(server))
    assert ask(use, url(server)).body == b"one"


def test_an_error_leaves_what_is_stored(cached, origin):
    steps = [stale("stale-if-error=20", TAG), BUSY, unchanged(TAG, LASTING)]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).status == 503
    answer = ask(use, url(server))
    assert (answer.body, said(answer)) == (b"one", "fwd=stale; fwd-status=304")


def test_a_client_may_take_what_is_stale(cached, origin):
    server = origin(answers(reply(b"one", *OLD)))
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server), "Cache-Control: max-stale=900")
    assert (answer.body, said(answer)) == (b"one", "hit; detail=stale")
    ask(use, url(server), "Cache-Control: max-stale=10")
    assert asked(server) == 2


# -- validated behind -----------------------------------------------------------------

BEHIND = "stale-while-revalidate=900"


@pytest.mark.parametrize(
    "fresh",
    [reply(b"new", NEWER, LASTING), chunked(b"new", lines=[NEWER, LASTING])],
    ids=["sized", "chunked"],
)
def test_it_is_given_at_once_and_renewed_behind(cached, origin, fresh):
    """The origin is held until three have their answers; it is asked once for all."""
    with gate() as held:
        server = origin(in_order(stale(BEHIND, TAG), held(fresh), BUSY))
        use = cached()
        ask(use, url(server))
        for _ in range(3):
            answer = ask(use, url(server))
            assert (answer.body, said(answer)) == (b"one", "hit; detail=stale")
        server.wait_requests(2)
        held.open()
        eventually(lambda: ask(use, url(server)).body == b"new", "it is renewed")
        assert said(ask(use, url(server))) == "hit"
        assert server.requests[1].the("if-none-match") == b'"a"'
        assert asked(server) == 2


def test_a_304_renews_behind(cached, origin):
    steps = [stale(BEHIND, TAG), unchanged(TAG, LASTING), BUSY]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    assert said(ask(use, url(server))) == "hit; detail=stale"
    eventually(lambda: said(ask(use, url(server))) == "hit", "it is renewed")
    assert ask(use, url(server)).body == b"one"
    assert asked(server) == 2


def test_the_worker_of_a_pool_renews_behind(pooled, daemons, origin):
    steps = [stale(BEHIND, TAG), unchanged(TAG, LASTING), BUSY]
    server = origin(in_order(*steps))
    use = with_cache(pooled, daemons)
    ask(use, url(server))
    assert ask(use, url(server)).body == b"one"
    eventually(lambda: said(ask(use, url(server))) == "hit", "it is renewed")
    assert asked(server) == 2


def test_it_is_renewed_behind_a_part_and_behind_a_304_as_well(cached, origin):
    steps = [stale(BEHIND, TAG), reply(b"new", NEWER, LASTING), BUSY]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server), "Range: bytes=1-1", 'If-Range: "a"')
    assert (answer.status, answer.body) == (206, b"n")
    eventually(lambda: ask(use, url(server)).body == b"new", "it is renewed")
    assert not server.requests[1].all("range")
    assert asked(server) == 2


def test_who_goes_on_is_answered_while_it_is_renewed(cached, origin):
    """The connection of the client is not held up by what goes on behind it."""
    with gate() as held:
        server = origin(
            in_order(stale(BEHIND, TAG), held(unchanged(TAG, LASTING)), BUSY)
        )
        other = origin(answers(reply(b"other")))
        use = cached()
        ask(use, url(server))
        with dialled(use.address) as peer:
            for _ in range(2):
                assert peer.send(request(url(server))).answer().body == b"one"
            assert peer.send(request(url(other))).answer().body == b"other"
            server.wait_requests(2)
        held.open()
        eventually(lambda: said(ask(use, url(server))) == "hit", "it is renewed")
        assert asked(server) == 2


@pytest.mark.parametrize(
    "then",
    [BUSY, b"SSH-2.0\r\n\r\n", bare("Content-Length: 99", LASTING) + b"cut"],
    ids=["busy", "no HTTP", "cut"],
)
def test_what_fails_behind_leaves_all_as_it_is(cached, origin, then):
    def play(connection):
        connection.request()
        connection.send(then)
        connection.half_close()
        connection.wait_gone()

    first = stale(BEHIND, TAG, "Connection: close")
    server = origin(answers(first), play, answers(unchanged(TAG, LASTING)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).body == b"one"
    server.wait_requests(2)
    # The next who comes finds it stale still, and has it renewed.
    eventually(lambda: said(ask(use, url(server))) == "hit", "it is renewed")
    assert ask(use, url(server)).body == b"one"
    assert asked(server) == 3


def test_who_leaves_a_worker_of_a_pool_does_not_stop_what_it_does_behind(
    pooled, daemons, origin
):
    """Its claim would be held by a worker that waits for its next connection."""
    use = with_cache(pooled, daemons)
    other = with_cache(starter(daemons, "loop"), daemons)
    with gate() as held:
        fresh = held(unchanged(TAG, LASTING))
        server = origin(in_order(stale(BEHIND, TAG), fresh))
        ask(use, url(server))
        with dialled(use.address) as peer:
            assert peer.send(request(url(server))).answer().body == b"one"
            server.wait_requests(2)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        held.open()
        eventually(lambda: said(ask(other, url(server))) == "hit", "it is renewed")


# -- from here only -------------------------------------------------------------------


def test_only_if_cached_is_answered_from_here_or_not_at_all(cached, origin):
    server = origin(answers(reply(b"one", LASTING)))
    use = cached()
    only = "Cache-Control: only-if-cached"
    assert ask(use, url(server), only).status == 504
    assert not server.requests
    ask(use, url(server))
    assert ask(use, url(server), only).body == b"one"
    assert asked(server) == 1


def test_only_if_cached_gets_nothing_stale(cached, origin):
    server = origin(answers(reply(b"one", *OLD)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server), "Cache-Control: only-if-cached").status == 504
    taken = "Cache-Control: only-if-cached, max-stale"
    assert ask(use, url(server), taken).body == b"one"
    assert asked(server) == 1


@pytest.mark.parametrize("line", ['If-Match: "a"', "If-Unmodified-Since: x"])
def test_only_if_cached_goes_to_no_server_whatever_else_is_wanted(cached, origin, line):
    server = origin(answers(reply(b"one", LASTING, TAG)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server), line, "Cache-Control: only-if-cached").status == 504
    assert asked(server) == 1


# -- what changes a resource ----------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "BREW"])
def test_what_changes_a_resource_ends_what_is_stored(cached, origin, method):
    server = origin(answers(reply(b"one", LASTING)))
    use = cached()
    ask(use, url(server))
    ask(use, url(server), method=method, body=b"x")
    assert said(ask(use, url(server))) == "fwd=miss; stored"
    assert asked(server) == 3


def test_what_is_refused_has_changed_nothing(cached, origin):
    steps = [reply(b"one", LASTING), reply(b"", status="403 No")]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    ask(use, url(server), method="DELETE")
    assert said(ask(use, url(server))) == "hit"


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_change_leads_to_is_ended_as_well(cached, origin, name, whole):
    def answer(one):
        if one.method == b"GET":
            return reply(b"one", LASTING)
        place = server.place + "/b?c"
        place = server.url(place) if whole else place
        return reply(b"", f"{name}: {place}", status="201 Made")

    server = origin(answers(answer))
    use = cached()
    for path in ("/a", "/b?c", "/d"):
        ask(use, url(server, path))
    ask(use, url(server, "/a"), method="POST", body=b"x")
    for path, times in (("/a", 3), ("/b?c", 2), ("/d", 1)):
        ask(use, url(server, path))
        assert asked(server, path) == times, path


def test_nobody_empties_the_cache_of_another_server(cached, origin):
    def answer(one):
        return reply(b"", f"Location: {url(server)}", LASTING)

    server, other = origin(answers(reply(b"one", LASTING))), origin(answers(answer))
    use = cached()
    ask(use, url(server))
    ask(use, url(other), method="POST", body=b"x")
    assert said(ask(use, url(server))) == "hit"


def test_a_change_in_one_process_ends_it_in_all(cached, origin):
    server = origin(answers(reply(b"one", LASTING)))
    use = cached()
    others = [
        type(use)(use.daemon.address(mode), mode, use.daemon)
        for mode in ("loop", "process")
    ]
    for changer in others:
        for one in others:
            ask(one, url(server))
        before = asked(server)
        ask(changer, url(server), method="PUT", body=b"x")
        for one in others:
            ask(one, url(server))
        assert asked(server) == before + 2


# -- HEAD -----------------------------------------------------------------------------


def heads(*lines):
    def answer(one):
        if one.method == b"HEAD":
            return bare(*lines)
        return reply(b"one", TAG, "X-A: old", LASTING)

    return answers(answer)


def test_head_freshens_what_is_stored(cached, origin):
    server = origin(heads(TAG, "Content-Length: 3", "X-A: new", LASTING))
    use = cached()
    ask(use, url(server))
    ask(use, url(server), "Cache-Control: no-cache", method="HEAD")
    answer = ask(use, url(server))
    assert (answer.body, answer.the("x-a"), said(answer)) == (b"one", b"new", "hit")
    assert asked(server) == 2


@pytest.mark.parametrize(
    "lines", [(NEWER, "Content-Length: 3"), (TAG, "Content-Length: 4")]
)
def test_head_ends_what_is_no_longer_so(cached, origin, lines):
    server = origin(heads(*lines, LASTING))
    use = cached()
    ask(use, url(server))
    ask(use, url(server), "Cache-Control: no-cache", method="HEAD")
    assert said(ask(use, url(server))) == "fwd=miss; stored"


def test_the_answer_to_head_is_not_taken_for_that_to_get(cached, origin):
    server = origin(heads(TAG, "Content-Length: 3", LASTING))
    use = cached()
    assert ask(use, url(server), method="HEAD").status == 200
    assert ask(use, url(server)).body == b"one"
    assert ask(use, url(server), method="HEAD").the("content-length") == b"3"
    assert asked(server) == 2


# -- what is told of it ---------------------------------------------------------------


def test_the_counters_tell_what_the_cache_did(cached, origin):
    steps = [reply(b"one", TAG, *OLD), unchanged(TAG, LASTING), reply(b"x", TAG)]
    server = origin(in_order(*steps))
    use = cached()
    before = counted(use)
    ask(use, url(server))  # miss
    ask(use, url(server))  # revalidated
    ask(use, url(server))  # hit
    ask(use, url(server), "Cache-Control: max-stale, max-age=0")  # stale
    wanted = {"miss": 1, "revalidated": 1, "hit": 1, "stale": 1}

    def are_there():
        now = counted(use)
        return {name: now[name] - before[name] for name in now} == wanted

    # A process counts after its peer has the answer.
    eventually(are_there, "all four are counted")
