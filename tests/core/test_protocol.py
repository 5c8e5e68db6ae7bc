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
    Crash,
    End,
    Fail,
    Hello,
    Kept,
    Leave,
    Name,
    Note,
    ProtocolError,
    Ready,
    Refuse,
    Start,
    clean,
    parse_reports,
    parse_seat_reports,
)

conns = st.integers(0, 10**15 - 1)
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
words = printable.map(lambda text: text[:MAX_TEXT])
texts = st.lists(words, min_size=1).map(lambda many: " ".join(many)[:MAX_TEXT].strip())
names = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", max_size=60
).filter(lambda name: name != "-")

pids = st.integers(0, PID_MAX)
signals, statuses = st.integers(0, 64), st.integers(0, 255)
times = st.integers(0, 10**9).map(lambda us: us / 1e6)

records = st.one_of(
    st.just(Ready()),
    st.builds(Refuse, words, texts),
    st.builds(Start, conns, pids, names),
    st.builds(Fail, conns, words, texts),
    st.builds(End, conns, signals, statuses, times),
    st.builds(Name, conns, names),
    st.builds(Note, texts),
)
seat_records = st.one_of(
    st.just(Leave()),
    st.builds(Hello, pids),
    st.builds(End, conns, signals, statuses, st.none() | times),
    st.builds(Fail, conns, words, texts),
    st.builds(Crash, signals, statuses),
    st.builds(Kept, st.lists(conns, max_size=9).map(tuple)),
    st.builds(Note, texts),
)


def spell(record) -> str:
    """Write a record as the launcher and its workers do: the other half of parsing."""
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
            time = "-" if cpu is None else round(cpu * 1e6)
            return f"end {conn} {signal} {status} {time}"
        case Name(conn, name):
            return f"name {conn} {name or '-'}"
        case Leave():
            return "leave"
        case Hello(pid):
            return f"hello {pid}"
        case Crash(signal, status):
            return f"crash {signal} {status}"
        case Kept(kept):
            return f"kept {','.join(map(str, kept)) or '-'}"
        case Note(text):
            return f"note {text}"
    raise AssertionError(record)


@given(st.lists(records, max_size=20))
def test_every_record_survives_the_way(many):
    data = "\n".join(map(spell, many)).encode("ascii")
    assert parse_reports(data) == many


@given(st.lists(seat_records, max_size=20))
def test_every_record_of_a_seat_survives_the_way(many):
    data = "\n".join(map(spell, many)).encode("ascii")
    assert parse_seat_reports(data) == many


BOTH = pytest.mark.parametrize(
    ("parse", "some", "kind"),
    [
        (parse_reports, records, protocol.Report),
        (parse_seat_reports, seat_records, protocol.SeatReport),
    ],
    ids=["launcher", "seat"],
)


@BOTH
@given(data=st.binary(max_size=300))
@example(data=b"\x00" * 10)
@example(data="end 1 2 3 ٤".encode())
@example(data=b"note \r\x1b[2J")
@example(data=b"kept ,")
@example(data="kept \u0661,\u0662".encode())
def test_any_bytes_are_reports_or_a_protocol_error(parse, some, kind, data):
    try:
        reports = parse(data)
    except ProtocolError:
        return
    assert all(isinstance(one, kind) for one in reports)


@BOTH
@given(data=st.data())
def test_a_damaged_datagram_is_reports_or_a_protocol_error(parse, some, kind, data):
    many = data.draw(st.lists(some, min_size=1, max_size=4))
    whole = bytearray("\n".join(map(spell, many)).encode("ascii"))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    try:
        reports = parse(bytes(whole))
    except ProtocolError:
        return
    for one in reports:
        assert isinstance(one, kind)
        for value in [*one, *(one.conns if isinstance(one, Kept) else ())]:
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
        "name {} -",
        "hello {}",
        "crash {} 0",
        "crash 0 {}",
        "kept {}",
        "kept 1,{}",
        "kept {},1",
        "seat end {} 0 0 -",
        "seat end 1 0 0 {}",
    ],
)
def test_what_is_not_a_plain_number_is_refused(form, word):
    of_seat = form.startswith(("hello", "crash", "kept", "seat "))
    parse = parse_seat_reports if of_seat else parse_reports
    form = form.removeprefix("seat ")
    assert parse(form.format(7).encode())
    with pytest.raises(ProtocolError):
        parse(form.format(word).encode())


@pytest.mark.parametrize(
    "line", ["end 1 65 0 0", "end 1 0 256 0", "end 1 0 0 1" + "0" * 15]
)
def test_a_number_out_of_its_range_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_reports(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        *("end 1 65 0 -", "end 1 0 256 -", "end 1 0 0 1" + "0" * 15),
        *("crash 65 0", "crash 0 256", f"hello {PID_MAX + 1}", "kept 1" + "0" * 15),
    ],
)
def test_a_number_of_a_seat_out_of_its_range_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_seat_reports(line.encode())


def test_only_a_worker_may_not_know_its_time():
    assert parse_seat_reports(b"end 1 0 0 -") == [End(1, 0, 0, None)]
    with pytest.raises(ProtocolError):
        parse_reports(b"end 1 0 0 -")


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
        "name 1",
        "name 1 a b",
        "name 1 a/b",
        "hello 1",
        "leave",
        "crash 9 0",
        "kept -",
    ],
)
def test_every_other_form_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_reports(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "hello ",
        "hello 1 2",
        " hello 1",
        "leave now",
        "leave ",
        "LEAVE",
        "crash",
        "crash 9",
        "crash 9 0 0",
        "kept",
        "kept ",
        "kept 1,",
        "kept ,1",
        "kept 1,,2",
        "kept 1 2",
        "kept 1,-",
        "end 1 0 0",
        "end 1 0 0 --",
        "end - 0 0 -",
        "ready",
        "start 1 2 -",
        "name 1 -",
        "refuse a b",
        "mark",
        "retire",
        "conn 1 1 192.0.2.1 1 -",
    ],
)
def test_every_other_form_of_a_seat_is_refused(line):
    with pytest.raises(ProtocolError):
        parse_seat_reports(line.encode())


def test_what_the_workers_say_is_understood():
    """Word for word as superd/launcher/pooling.py, looping.py and seats.py say it."""
    assert parse_seat_reports(b"hello 4711") == [Hello(4711)]
    assert parse_seat_reports(b"end 7 0 3 1500000\nleave") == [
        End(7, 0, 3, 1.5),
        Leave(),
    ]
    assert parse_seat_reports(b"end 7 15 0 -\nend 8 0 0 -\nnote a b") == [
        End(7, 15, 0, None),
        End(8, 0, 0, None),
        Note("a b"),
    ]
    assert parse_seat_reports(b"crash 9 0") == [Crash(9, 0)]
    assert parse_seat_reports(b"kept 7,8") == [Kept((7, 8))]
    assert parse_seat_reports(b"kept -") == [Kept(())]
    assert parse_seat_reports(b"fail 7 descriptor no descriptor is left") == [
        Fail(7, "descriptor", "no descriptor is left")
    ]


def test_one_bad_record_spoils_its_datagram():
    with pytest.raises(ProtocolError):
        parse_reports(b"ready\nnonsense\nready")


def test_an_empty_datagram_says_nothing():
    assert parse_reports(b"") == parse_reports(b"\n\n") == []
    assert parse_seat_reports(b"") == parse_seat_reports(b"\n\n") == []


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
