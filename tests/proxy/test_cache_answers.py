"""What the cache answers: hits, validations, variants, conditions and ranges.

The rule of the file: every test says how often the origin was asked, which is what a cache
is for.
"""

from __future__ import annotations

import re
import time
from functools import partial

import pytest
from proxy.cache_rig import (
    LASTING,
    NEWER,
    OLD,
    TAG,
    ago,
    asked,
    by_field,
    in_order,
    said,
    unchanged,
    url,
    validates,
    with_cache,
)
from proxy.client import ask, dialled, request
from proxy.origins import answers, bare, chunked, reply

BODY = bytes(range(256)) * 4
LARGE = BODY * 100
"""More than is kept in memory: it comes from a file."""


@pytest.fixture
def cached(proxy, daemons):
    """Give a proxy with a cache."""
    return partial(with_cache, proxy, daemons)


def test_the_second_who_asks_is_answered_from_the_store(cached, origin):
    server = origin(in_order(reply(b"one", LASTING, "X-A: b"), reply(b"two")))
    use = cached()
    first, second = ask(use, url(server)), ask(use, url(server))
    assert (first.body, second.body) == (b"one", b"one")
    assert second.the("x-a") == b"b"
    assert second.the("content-length") == b"3"
    assert (said(first), said(second)) == ("fwd=miss; stored", "hit")
    assert asked(server) == 1
    use.daemon.wait_log(rf"{server.place}.* status=200 .* cache=miss ")
    use.daemon.wait_log(rf"{server.place}.* status=200 .* cache=hit ")


def test_the_hit_of_one_process_is_that_of_all(daemons, origin, cached):
    """Loop and process mode have one folder, and a process is one for each connection."""
    server = origin(in_order(reply(b"one", LASTING), reply(b"two")))
    use = cached()
    assert ask(use, url(server)).body == b"one"
    for mode in ("loop", "process", "process", "loop"):
        other = type(use)(use.daemon.address(mode), mode, use.daemon)
        assert ask(other, url(server)).body == b"one"
    assert asked(server) == 1


def test_the_worker_of_a_pool_answers_from_the_store(pooled, daemons, origin):
    server = origin(in_order(reply(b"one", LASTING), reply(b"two")))
    use = with_cache(pooled, daemons)
    assert [ask(use, url(server)).body for _ in range(3)] == [b"one"] * 3
    assert asked(server) == 1


def test_age_is_what_the_origin_said_and_more(cached, origin):
    server = origin(answers(reply(b"one", LASTING, "Age: 700")))
    use = cached()
    assert ask(use, url(server)).the("age") == b"700"
    assert 700 <= int(ask(use, url(server)).the("age")) <= 710
    assert asked(server) == 1


def test_a_body_in_chunks_is_stored_whole(cached, origin):
    server = origin(answers(chunked(b"on", b"e", lines=[LASTING])))
    use = cached()
    assert ask(use, url(server)).body == b"one"
    hit = ask(use, url(server))
    assert (hit.body, hit.framing) == (b"one", "sized")
    assert asked(server) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ["Cache-Control: no-store, max-age=1000"],
        ["Cache-Control: private, max-age=1000"],
        ["Cache-Control: PRIVATE", "Cache-Control: max-age=1000"],
        [LASTING, "Vary: *"],
        ["Cache-Control: max-age=0"],
        ["Cache-Control: s-maxage=0, max-age=1000"],
        ["Expires: 0"],
        ["Cache-Control: max-age=x"],
    ],
)
def test_what_is_not_to_be_kept_is_not(cached, origin, lines):
    server = origin(in_order(reply(b"one", *lines), reply(b"two", *lines)))
    use = cached()
    first, second = ask(use, url(server)), ask(use, url(server))
    assert (first.body, second.body) == (b"one", b"two")
    assert said(second) == "fwd=miss"
    assert asked(server) == 2


def test_s_maxage_counts_before_max_age(cached, origin):
    server = origin(answers(reply(b"one", "Cache-Control: max-age=0, s-maxage=1000")))
    use = cached()
    assert ask(use, url(server)).body == ask(use, url(server)).body == b"one"
    assert asked(server) == 1


def test_what_a_client_wants_new_is_asked_for(cached, origin):
    server = origin(in_order(reply(b"one", LASTING), reply(b"two", LASTING)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server), "Cache-Control: no-cache").body == b"two"
    assert ask(use, url(server)).body == b"two"
    assert asked(server) == 2


# -- validation -----------------------------------------------------------------------


def test_a_stale_answer_is_validated_by_its_tag(cached, origin):
    fresh = unchanged(TAG, LASTING, "X-A: new")
    server = origin(in_order(reply(b"one", TAG, "X-A: old", *OLD), fresh))
    use = cached()
    ask(use, url(server))
    again, third = ask(use, url(server)), ask(use, url(server))
    assert server.requests[1].the("if-none-match") == b'"a"'
    assert (again.status, again.body, again.the("x-a")) == (200, b"one", b"new")
    assert said(again) == "fwd=stale; fwd-status=304"
    # The 304 brought a new life, and new fields.
    assert (said(third), third.body, third.the("x-a")) == ("hit", b"one", b"new")
    assert asked(server) == 2
    use.daemon.wait_log(rf"{server.place}.* cache=revalidated ")


def test_a_stale_answer_is_validated_by_its_date(cached, origin):
    modified = f"Last-Modified: {ago(9999, time.time())}"
    stale = reply(b"one", modified, *OLD)
    server = origin(in_order(stale, unchanged(modified, LASTING)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).body == b"one"
    since = server.requests[1].the("if-modified-since")
    assert since == modified.partition(": ")[2].encode()
    assert said(ask(use, url(server))) == "hit"
    assert asked(server) == 2


def test_a_304_does_not_change_what_the_body_is(cached, origin):
    lies = [
        "Content-Length: 9999",
        "Content-Encoding: gzip",
        "Content-Range: bytes 0-1/2",
    ]
    stale = reply(b"one", TAG, *OLD)
    server = origin(in_order(stale, unchanged(TAG, LASTING, *lies)))
    use = cached()
    ask(use, url(server))
    for _ in range(2):
        answer = ask(use, url(server))
        assert (answer.body, answer.the("content-length")) == (b"one", b"3")
        assert not answer.names & {"content-encoding", "content-range"}


def test_what_has_changed_takes_the_place_of_the_stale(cached, origin):
    server = origin(in_order(reply(b"one", TAG, *OLD), reply(b"two", NEWER, LASTING)))
    use = cached()
    ask(use, url(server))
    changed, hit = ask(use, url(server)), ask(use, url(server))
    assert (changed.body, said(changed)) == (b"two", "fwd=stale; stored")
    assert (hit.body, said(hit)) == (b"two", "hit")
    assert asked(server) == 2


def test_a_304_about_another_state_is_followed_by_the_whole_question(cached, origin):
    steps = [reply(b"one", TAG, *OLD), unchanged(NEWER), reply(b"two", NEWER, LASTING)]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).body == b"two"
    assert not server.requests[2].all("if-none-match")
    assert ask(use, url(server)).body == b"two"
    assert asked(server) == 3


def test_the_304_to_a_clients_own_condition_renews_nothing(cached, origin):
    """What has no validator was not asked about: 304 says that the client has the new."""

    def later(one):
        known = one.all("if-modified-since")
        return unchanged(LASTING) if known else reply(b"new", LASTING)

    server = origin(in_order(reply(b"old", *OLD), later))
    use = cached()
    ask(use, url(server))
    since = f"If-Modified-Since: {ago(10, time.time())}"
    assert ask(use, url(server), since).body != b"old"
    assert ask(use, url(server)).body == b"new"


def test_a_part_of_what_is_stale_comes_from_the_store_once_it_is_validated(
    cached, origin
):
    server = origin(in_order(reply(BODY, TAG, *OLD), unchanged(TAG, LASTING)))
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server), "Range: bytes=1-2", 'If-Range: "a"')
    assert (answer.status, answer.body) == (206, BODY[1:3])
    assert said(answer) == "fwd=stale; fwd-status=304"
    assert not server.requests[1].names & {"range", "if-range"}


def test_a_part_of_what_has_changed_is_all_of_it(cached, origin):
    """The whole is stored: the next part comes from there."""
    server = origin(in_order(reply(b"old", TAG, *OLD), reply(BODY, NEWER, LASTING)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server), "Range: bytes=1-2").body == BODY
    assert ask(use, url(server), "Range: bytes=1-2").body == BODY[1:3]
    assert asked(server) == 2


def test_head_validates_what_is_stale(cached, origin):
    server = origin(in_order(reply(b"one", TAG, *OLD), unchanged(TAG, LASTING)))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server), method="HEAD").the("content-length") == b"3"
    assert said(ask(use, url(server))) == "hit"
    assert asked(server) == 2


def test_what_must_not_be_kept_any_longer_goes_with_the_304_that_says_so(
    cached, origin
):
    secret = unchanged(TAG, "Cache-Control: no-store")
    steps = [reply(b"one", TAG, *OLD), secret, reply(b"two")]
    server = origin(in_order(*steps))
    use = cached()
    ask(use, url(server))
    assert ask(use, url(server)).body == b"one"
    last = ask(use, url(server))
    assert (last.body, said(last)) == (b"two", "fwd=miss")


# -- variants -------------------------------------------------------------------------


def test_each_variant_has_its_answer(cached, origin):
    lines = [LASTING, "Vary: Accept-Language, X-Kind"]
    server = origin(answers(by_field("accept-language", *lines)))
    use = cached()
    for _ in range(3):
        for language in ("de", "en", "fr"):
            answer = ask(use, url(server), f"Accept-Language: {language}")
            assert answer.body == language.encode()
    assert ask(use, url(server)).body == b"none"
    assert asked(server) == 4
    assert ask(use, url(server), "Accept-Language: de", "X-Kind: a").body == b"de"
    assert asked(server) == 5


def test_a_variant_is_validated_alone(cached, origin):
    def answer(one):
        language = one.the("accept-language").decode()
        return validates(
            f'ETag: "{language}"', language.encode(), "Vary: Accept-Language", *OLD
        )(one)

    server = origin(answers(answer))
    use = cached()
    for _ in range(2):
        for language in ("de", "en"):
            got = ask(use, url(server), f"Accept-Language: {language}")
            assert got.body == language.encode()
    tags = [one.all("if-none-match") for one in server.requests]
    assert tags == [[], [], [b'"de"'], [b'"en"']]


# -- conditions and ranges of clients -------------------------------------------------


@pytest.fixture(params=[BODY, LARGE], ids=["small", "large"])
def kept(request, cached, origin):
    """Give a proxy that has stored a body, and how to ask for it."""
    modified = f"Last-Modified: {ago(9999, time.time())}"
    lines = [LASTING, TAG, modified, "Content-Type: text/x"]
    server = origin(answers(reply(request.param, *lines)))
    use = cached()
    assert ask(use, url(server)).body == request.param

    def get(*fields, **more):
        answer = ask(use, url(server), *fields, **more)
        assert asked(server) == 1
        assert said(answer) == "hit"
        return answer

    return get, request.param, modified.partition(": ")[2]


def test_who_has_it_is_told_so_from_the_store(kept):
    get, _, modified = kept
    for field in (
        'If-None-Match: "x", W/"a"',
        "If-None-Match: *",
        f"If-Modified-Since: {modified}",
    ):
        answer = get(field)
        assert (answer.status, answer.the("etag")) == (304, b'"a"')
        assert "content-type" not in answer.names
    for field in (
        'If-None-Match: "x"',
        f"If-Modified-Since: {ago(20000, time.time())}",
    ):
        assert get(field).status == 200


def test_a_part_comes_from_the_store(kept):
    get, body, _ = kept
    size = len(body)
    for wanted, start, end in (
        ("0-0", 0, 1),
        ("5-99", 5, 100),
        ("1000-", 1000, size),
        ("-7", size - 7, size),
        (f"1-{size * 2}", 1, size),
    ):
        answer = get(f"Range: bytes={wanted}")
        assert (answer.status, answer.body) == (206, body[start:end])
        told = f"bytes {start}-{end - 1}/{size}".encode()
        assert answer.the("content-range") == told
        assert answer.the("content-type") == b"text/x"


def test_several_parts_come_from_the_store(kept):
    get, body, _ = kept
    answer = get("Range: bytes=0-3,10-19,-5")
    boundary = re.fullmatch(
        rb"multipart/byteranges; boundary=(\w+)", answer.the("content-type")
    )[1]
    _, *parts, end = answer.body.split(b"--" + boundary)
    assert end == b"--\r\n"
    found = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert answer.status == 206
    assert found == [body[:4], body[10:20], body[-5:]]


def test_a_part_that_is_not_there_is_refused_from_the_store(kept):
    get, body, _ = kept
    answer = get(f"Range: bytes={len(body)}-")
    assert answer.status == 416
    assert answer.the("content-range") == f"bytes */{len(body)}".encode()


def test_a_part_is_given_to_who_has_the_rest_of_the_same(kept):
    get, body, modified = kept
    for same in ('"a"', modified):
        answer = get("Range: bytes=1-2", f"If-Range: {same}")
        assert (answer.status, answer.body) == (206, body[1:3])
    for other in ('"b"', 'W/"a"', ago(20000, time.time())):
        answer = get("Range: bytes=1-2", f"If-Range: {other}")
        assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize("wish", ["lines=1-2", "bytes=2-1", "bytes=", "bytes=0-,0-,0-"])
def test_a_range_that_is_none_gets_all(kept, wish):
    get, body, _ = kept
    assert get(f"Range: {wish}").body == body


def test_head_is_answered_from_the_store(kept):
    get, body, _ = kept
    answer = get(method="HEAD")
    assert (answer.status, answer.the("content-length")) == (200, b"%d" % len(body))
    assert get('If-None-Match: "a"', method="HEAD").status == 304
    # RFC 9110 14.2: Range has a meaning for GET only.
    assert get("Range: bytes=0-1", method="HEAD").status == 200


def test_answers_from_the_store_follow_each_other_on_a_connection(kept, cached, origin):
    server = origin(answers(reply(BODY, LASTING, TAG)))
    use = cached()
    wishes = [[], ["Range: bytes=0-1"], ['If-None-Match: "a"'], []]
    with dialled(use.address) as peer:
        peer.send(b"".join(request(url(server), *wish) for wish in wishes))
        found = [peer.answer() for _ in wishes]
    assert [one.status for one in found] == [200, 206, 304, 200]
    assert [one.body for one in found] == [BODY, BODY[:2], b"", BODY]
    assert asked(server) == 1


def test_a_client_of_http_1_0_is_answered_from_the_store(cached, origin):
    server = origin(answers(reply(b"one", LASTING)))
    use = cached()
    for _ in range(2):
        answer = ask(use, url(server), version="1.0")
        assert (answer.body, answer.whole) == (b"one", True)
        assert answer.closes
    assert asked(server) == 1


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "301 Moved"])
def test_other_statuses_are_stored_too(cached, origin, status):
    if status.startswith("204"):
        server = origin(answers(bare(LASTING, status=status)))
    else:
        server = origin(answers(reply(b"one", LASTING, status=status)))
    use = cached()
    first, second = ask(use, url(server)), ask(use, url(server))
    assert first.status == second.status == int(status[:3])
    assert first.body == second.body
    assert asked(server) == 1


def test_a_part_that_an_origin_sent_is_not_taken_for_the_whole(cached, origin):
    part = reply(
        b"ne", LASTING, "Content-Range: bytes 1-2/3", status="206 Partial Content"
    )
    server = origin(in_order(part, reply(b"one", LASTING)))
    use = cached()
    assert ask(use, url(server), "Range: bytes=1-2").body == b"ne"
    assert ask(use, url(server)).body == b"one"
    assert ask(use, url(server), "Range: bytes=1-2").body == b"ne"
    assert asked(server) == 2
