"""Answers from what is stored (RFC 9111 4.3.2, RFC 9110 13 and 14)."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.facts import facts_of
from superd.handlers.cache.policy import to_store
from superd.handlers.cache.serving import answer
from superd.handlers.forward.fields import values
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.0
BODY = b"01234567890"


def date(shift):
    return date_of(NOW + shift).encode()


def stored(*fields, status=200, body=BODY):
    fields = [(b"Date", date(-3)), (b"Content-Type", b"text/plain"), *fields]
    return facts_of(
        to_store(
            b"http://a/",
            [],
            status,
            b"Fine",
            fields,
            requested=NOW,
            received=NOW,
            size=len(body),
        )
    )


def ask(facts, *fields, method=b"GET", now=NOW + 30):
    return answer(facts, method, list(fields), now, boundary=lambda: "edge")


def body_of(served, body=BODY):
    parts = [
        piece.head + body[piece.start : piece.start + piece.size]
        for piece in served.pieces
    ]
    return b"".join([*parts, served.end])


def test_an_answer_is_told_as_it_came_with_its_age():
    lines = [
        (b"X-a", b"1"),
        (b"Age", b"30"),
        (b"CONTENT-length", b"11"),
        (b"X-A", b"2"),
    ]
    served = ask(stored(*lines), now=NOW + 5.5)
    assert (served.status, served.reason, served.length) == (200, b"Fine", 11)
    assert served.fields == [
        *((b"Date", date(-3)), (b"Content-Type", b"text/plain")),
        *((b"X-a", b"1"), (b"X-A", b"2"), (b"Age", b"35")),
    ]
    assert body_of(served) == BODY


def test_head_is_told_the_same_without_the_body():
    facts = stored((b"ETag", b'"a"'))
    assert ask(facts, method=b"HEAD") == ask(facts)._replace(pieces=())


def test_a_status_without_a_body_has_no_length():
    served = ask(stored(status=204, body=b""))
    assert (served.status, served.pieces, served.length) == (204, (), None)
    assert ask(stored(status=404, body=b"")).length == 0


@pytest.mark.parametrize(
    ("tag", "known"),
    [
        (b'"abcdef"', b'"abcdef"'),
        (b'"abcdef"', b'W/"abcdef"'),
        (b'W/"abcdef"', b'W/"abcdef"'),
        (b'"abcdef"', b'"abcdef", "1234", "5678"'),
        (b'"abcdef"', b'"1234", "abcdef", "5678"'),
        (b'"abcdef"', b'"1234", "5678", "abcdef"'),
        (b'"a,b"', b'"1234","a,b"'),
        ('"abcdef\u00fc"'.encode(), '"abcdef\u00fc"'.encode()),
        (b'"abcdef"', b"*"),
    ],
)
def test_a_client_who_has_it_is_told_so(tag, known):
    fields = [
        *((b"ETag", tag), (b"Cache-Control", b"max-age=9"), (b"Vary", b"x")),
        *((b"Expires", date(9)), (b"Content-Location", b"/b"), (b"X-A", b"1")),
        *((b"Content-Length", b"11"), (b"Content-Encoding", b"x")),
    ]
    served = ask(stored(*fields), (b"if-none-match", known))
    assert (served.status, served.pieces, served.length) == (304, (), None)
    assert served.fields == [(b"Date", date(-3)), *fields[:6], (b"Age", b"33")]
    assert ask(stored(*fields), (b"If-None-Match", known), method=b"HEAD") == served


@pytest.mark.parametrize(
    ("tag", "known"),
    [
        (b'"abcdef"', b'"abc"'),
        (b'"abcdef"', b"abcdef"),
        (b"abcdef", b"abcdef"),
        (b'"abcdef"', b""),
    ],
)
def test_one_who_has_something_else_is_sent_all(tag, known):
    served = ask(stored((b"ETag", tag)), (b"If-None-Match", known))
    assert (served.status, served.length) == (200, 11)


@pytest.mark.parametrize(
    ("modified", "since", "status"),
    [
        (date(-3000), date(-3000), 304),
        (date(-3000), date(-2000), 304),
        (date(-3000), date(-3001), 200),
        (date(-3000), b"yesterday", 200),
        # Without Last-Modified it is Date that counts (4.3.2).
        (None, date(-3), 304),
        (None, date(-4), 200),
    ],
)
def test_one_who_knows_a_moment_is_answered_by_it(modified, since, status):
    facts = stored(*([(b"Last-Modified", modified)] if modified else []))
    assert ask(facts, (b"If-Modified-Since", since)).status == status


def test_an_entity_tag_is_asked_before_a_moment():
    facts = stored((b"ETag", b'"a"'), (b"Last-Modified", date(-5000)))
    same, later = (b"If-None-Match", b'"a"'), (b"If-Modified-Since", date(-1))
    assert ask(facts, same, (b"If-Modified-Since", date(-9999))).status == 304
    assert ask(facts, (b"If-None-Match", b'"b"'), later).status == 200


def test_a_condition_is_not_asked_of_an_error_nor_of_the_server():
    tag = (b"ETag", b'"a"')
    assert ask(stored(tag, status=404), (b"If-None-Match", b'"a"')).status == 404
    assert ask(stored(tag), (b"If-Match", b'"b"')).status == 200


@pytest.mark.parametrize(
    ("wanted", "text", "where"),
    [
        (b"bytes=0-1", b"01", b"bytes 0-1/11"),
        (b"bytes=1-", b"1234567890", b"bytes 1-10/11"),
        (b"bytes=-1", b"0", b"bytes 10-10/11"),
        (b"bytes=0-", BODY, b"bytes 0-10/11"),
    ],
)
def test_a_part_is_cut_out_of_what_is_stored(wanted, text, where):
    facts = stored((b"A", b"1"), (b"Content-Range", b"junk"))
    served = ask(facts, (b"Range", wanted))
    assert (served.status, served.length) == (206, len(text))
    assert body_of(served) == text
    assert values(served.fields, b"content-range") == [where]
    assert values(served.fields, b"a") == [b"1"]


def test_several_parts_are_laid_out_as_the_mail_library_reads_them():
    served = ask(stored((b"A", b"1")), (b"Range", b"bytes=0-1,5-6,-1"))
    text = body_of(served)
    assert (served.status, served.length) == (206, len(text))
    (kind,) = values(served.fields, b"content-type")
    assert kind == b"multipart/byteranges; boundary=edge"
    head = b"Content-Type: " + kind + b"\r\n\r\n"
    parts = email.message_from_bytes(
        head + text, policy=email.policy.HTTP
    ).get_payload()
    assert [part.get_payload(decode=True) for part in parts] == [b"01", b"56", b"0"]
    assert parts[1]["Content-Range"] == "bytes 5-6/11"
    assert parts[1]["Content-Type"] == "text/plain"


def test_a_type_that_is_not_ascii_goes_with_each_part():
    facts = stored()._replace(lines=[(b"Content-Type", b"text/\xfc")])
    assert b"Content-Type: text/\xfc\r\n" in body_of(
        ask(facts, (b"Range", b"bytes=0-1,5-6"))
    )


def test_a_part_behind_the_end_cannot_be_sent():
    served = ask(stored((b"A", b"1")), (b"Range", b"bytes=99-"))
    assert (served.status, served.pieces, served.length) == (416, (), 0)
    names = [name for name, _ in served.fields]
    assert served.fields[:2] == [(b"Content-Range", b"bytes */11"), (b"Age", b"33")]
    assert names[2:] == [b"Date"]  # RFC 9110 6.6.1: every answer has one


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (b'"a"', 206),
        (b'"b"', 200),
        (b'W/"a"', 200),
        (date(-9), 206),
        (date(-8), 200),
        (b"junk", 200),
    ],
)
def test_a_part_is_sent_only_of_the_state_that_the_client_has(condition, status):
    facts = stored((b"ETag", b'"a"'), (b"Last-Modified", date(-9)))
    served = ask(facts, (b"Range", b"bytes=0-1"), (b"If-Range", condition))
    assert served.status == status


def test_where_there_is_no_part_to_speak_of_all_is_sent():
    part = (b"Range", b"bytes=0-1")
    assert ask(stored(), part, method=b"HEAD").status == 200
    assert ask(stored(), part, part).status == 200
    assert ask(stored(), (b"Range", b"lines=0-1")).status == 200
    assert ask(stored(status=404), part).status == 404
    assert ask(stored(body=b""), part).status == 200
    weak = stored((b"ETag", b'W/"a"'))
    assert ask(weak, part, (b"If-Range", b'W/"a"')).status == 200


def test_a_client_who_has_it_needs_no_part():
    facts = stored((b"ETag", b'"a"'))
    served = ask(facts, (b"Range", b"bytes=0-1"), (b"If-None-Match", b'"a"'))
    assert served.status == 304


ASKED = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since"]
        ),
        st.one_of(
            st.text('bytes=019-, "aW/', max_size=12).map(str.encode),
            st.sampled_from([b'"a"', b"bytes=0-3,7-", b"bytes=-5", date(-9)]),
        ),
    ),
    max_size=4,
)


@given(ASKED, st.sampled_from([b"GET", b"HEAD"]), st.sampled_from([200, 204, 404]))
def test_whatever_is_asked_the_length_is_true(fields, method, status):
    body = b"" if status == 204 else BODY
    facts = stored((b"ETag", b'"a"'), status=status, body=body)
    served = ask(facts, *fields, method=method)
    assert served.status in {status, 206, 304, 416}
    assert len(values(served.fields, b"age")) == 1
    text = body_of(served, body)
    if method == b"HEAD" or served.length is None:
        assert not text
    else:
        assert len(text) == served.length


def test_a_boundary_of_its_own_is_made_for_each_answer():
    request = [(b"Range", b"bytes=0-1,5-6")]
    one, two = (answer(stored(), b"GET", request, NOW) for _ in range(2))
    assert one.end != two.end
    assert one.length == two.length
