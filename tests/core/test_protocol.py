"""What is believed of a launcher's word: exactly the forms of the protocol."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from superd.core import protocol
from superd.core.protocol import (
    MAX_TEXT,
    PID_MAX,
    End,
    Fail,
    Note,
    ProtocolError,
    Ready,
    Refuse,
    Start,
    clean,
    parse_reports,
)

conns = st.integers(0, 10**15 - 1)
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
words = printable.map(lambda text: text[:MAX_TEXT])
texts = st.lists(words, min_size=1).map(lambda many: " ".join(many)[:MAX_TEXT].strip())
names = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", max_size=60
).filter(lambda name: name != "-")

records = st.one_of(
    st.just(Ready()),
    st.builds(Refuse, words, texts),
    st.builds(Start, conns, st.integers(0, PID_MAX), names),
    st.builds(Fail, conns, words, texts),
    st.builds(
        End,
        conns,
        st.integers(0, 64),
        st.integers(0, 255),
        st.integers(0, 10**9).map(lambda us: us / 1e6),
    ),
    st.builds(Note, texts),
)


def spell(record) -> str:
    """Write a record as the launcher does: the other half of parse_reports."""
    match record:
        case Ready():
            return "ready"
        case Refuse(stage, text):
            return f"refuse {stage} {text}"
        case Start(conn, pid, name):
            return f"start {conn} {pid} {name or '-'}"
        case Fail(conn, stage, text):
            return f"fail {conn} {stage} {text}"
        case End(conn, signal, status, cpu):
            return f"end {conn} {signal} {status} {round(cpu * 1e6)}"
        case Note(text):
            return f"note {text}"
    raise AssertionError(record)


@given(st.lists(records, max_size=20))
def test_every_record_survives_the_way(many):
    data = "\n".join(map(spell, many)).encode("ascii")
    assert parse_reports(data) == many


@given(st.binary(max_size=300))
@example(b"\x00" * 10)
@example("end 1 2 3 ٤".encode())
@example(b"note \r\x1b[2J")
def test_any_bytes_are_reports_or_a_protocol_error(data):
    try:
        reports = parse_reports(data)
    except ProtocolError:
        return
    assert all(isinstance(one, protocol.Report) for one in reports)


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_damaged_datagram_is_reports_or_a_protocol_error(many, data):
    whole = bytearray("\n".join(map(spell, many)).encode("ascii"))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    try:
        reports = parse_reports(bytes(whole))
    except ProtocolError:
        return
    for one in reports:
        for value in one:
            assert not isinstance(value, int) or 0 <= value < 10**15
            assert not isinstance(value, str) or (value.isascii() and "\n" not in value)


@pytest.mark.parametrize(
    "word",
    [
        "+5",
        "-5",
        "1_0",
        "0x1",
        "1e3",
        "1.0",
        "٣",
        "²",
        "\uff11",
        "",
        " ",
        "5 ",
        "1" * 16,
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "start {} 2 -",
        "start 2 {} -",
        "end {} 0 0 0",
        "end 1 {} 0 0",
        "end 1 0 {} 0",
        "end 1 0 0 {}",
        "fail {} exec no",
    ],
)
def test_what_is_not_a_plain_number_is_refused(form, word):
    assert parse_reports(form.format(7).encode())
    with pytest.raises(ProtocolError):
        parse_reports(form.format(word).encode())


@pytest.mark.parametrize(
    "line", ["end 1 65 0 0", "end 1 0 256 0", "end 1 0 0 1" + "0" * 15]
)
def test_a_number_out_of_its_range_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_reports(line.encode())


def test_a_pid_beyond_the_kernels_is_refused():
    """pidfd_open raises OverflowError for it, when the launcher dies and it is watched."""
    with pytest.raises(OverflowError):
        os.pidfd_open(1 << 31)
    assert parse_reports(f"start 1 {PID_MAX} -".encode())
    with pytest.raises(ProtocolError):
        parse_reports(f"start 1 {PID_MAX + 1} -".encode())


@pytest.mark.parametrize(
    "line",
    [
        "ready now",
        "ready ",
        "READY",
        "refuse",
        "refuse stage",
        "start 1 2",
        "start 1 2 a b",
        "start 1 2 a/b",
        "start 1 2 a\tb",
        "start  1 2 -",
        "end 1 2 3",
        "end 1 2 3 4 5",
        "fail 1 exec",
        "kill 1 TERM",
        "conn 1 1 192.0.2.1 1",
        " ready",
        "no such verb",
    ],
)
def test_every_other_form_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_reports(line.encode())


def test_one_bad_record_spoils_its_datagram():
    with pytest.raises(ProtocolError):
        parse_reports(b"ready\nnonsense\nready")


def test_an_empty_datagram_says_nothing():
    assert parse_reports(b"") == parse_reports(b"\n\n") == []


def test_free_text_is_bounded():
    [note] = parse_reports(b"note " + b"x" * 5000)
    assert note == Note("x" * MAX_TEXT)


@given(st.text())
def test_cleaned_text_is_one_bounded_line(text):
    cleaned = clean(text)
    assert 0 < len(cleaned) <= MAX_TEXT
    assert cleaned.splitlines() == [cleaned]


@given(st.text(st.characters(max_codepoint=127)))
def test_cleaned_text_is_fit_for_a_record(text):
    assert parse_reports(f"note {clean(text)}".encode()) == [Note(clean(text))]
