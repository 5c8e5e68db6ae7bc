"""Encode and judge what the master and its launchers and workers say to each other.

One datagram of a SOCK_SEQPACKET pair holds one or more records, a line each: a verb and
its words. Descriptors ride along in the order of the records that need one. What a
launcher says is hostile input: `parse_reports` accepts exactly the forms below and nothing
else; numbers are bounded before they are read.

    master to launcher                          descriptor
      seat SEAT                                 the worker's end of a new channel
      look CONN HOST                            -   the name of a peer, please
      conn CONN NUMBER HOST PORT                the connection
      wait CONN                                 the listener, for a wait program
      serve CONN PORT,PORT,...                  the listener, for a datagram handler;
                                                the ports of all our UDP services
      kill CONN TERM|KILL [SEAT]                -
      retire                                    -   finish what you have, then end
    launcher to master
      ready                                     the read end of its handlers' stderr
      refuse STAGE TEXT                         -   then it ends
      start CONN PID NAME|-                     -
      fail CONN STAGE TEXT                      -
      end CONN SIGNAL STATUS CPU_US             -
      name CONN NAME|-                          -
      note TEXT                                 -   a line for the log
    master to worker, on its seat
      conn CONN NUMBER HOST PORT NAME|-         the connection
      kill CONN TERM|KILL                       -   of a loop: there is no process
      mark                                      -   all before it is the dead worker's
      retire                                    -   finish what you have, then end
    worker to master, on its seat; for a dead one its launcher speaks
      hello PID                                 -   from now on it takes what comes
      end CONN SIGNAL STATUS CPU_US|-           -
      fail CONN STAGE TEXT                      -
      leave                                     -   it has nothing; a fresh one follows
      crash SIGNAL STATUS                       -   by the launcher; a mark answers it
      kept CONN,CONN,...|-                      -   by the launcher, at the mark
      note TEXT                                 -
"""

from __future__ import annotations

from typing import NamedTuple

MAX_DATAGRAM = 65536
"""Bytes of one datagram, either way."""

MAX_FDS = 64
"""Descriptors of one datagram: the kernel's limit is SCM_MAX_FD, 253."""

MAX_TEXT = 1000
"""Characters of free text that are taken over from a launcher."""

PID_MAX = 1 << 22
"""PID_MAX_LIMIT of a 64-bit Linux: pidfd_open raises OverflowError far above it."""

_MAX_DIGITS = 15
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


class ProtocolError(ValueError):
    """A launcher said something that is not in the protocol."""


class Ready(NamedTuple):
    """The launcher has become its service; a descriptor came along."""


class Refuse(NamedTuple):
    """The launcher cannot become its service."""

    stage: str
    text: str


class Start(NamedTuple):
    """A handler runs."""

    conn: int
    pid: int
    name: str


class Fail(NamedTuple):
    """A handler could not be started."""

    conn: int
    stage: str
    text: str


class End(NamedTuple):
    """A handler was reaped, or a worker is done; `cpu` in seconds, where it is known."""

    conn: int
    signal: int
    status: int
    cpu: float | None


class Name(NamedTuple):
    """The name of a connection's peer; "": it has none."""

    conn: int
    name: str


class Hello(NamedTuple):
    """A worker sits on this seat."""

    pid: int


class Leave(NamedTuple):
    """The worker of this seat makes room for a fresh one."""


class Crash(NamedTuple):
    """The worker of this seat has died."""

    signal: int
    status: int


class Kept(NamedTuple):
    """What a dead worker had not begun."""

    conns: tuple[int, ...]


class Note(NamedTuple):
    """A line for the log."""

    text: str


Report = Ready | Refuse | Start | Fail | End | Name | Note
SeatReport = Hello | End | Fail | Leave | Crash | Kept | Note


def clean(text: str) -> str:
    """Make free text fit for a record: one line, bounded."""
    return " ".join(text.split())[:MAX_TEXT] or "-"


def parse_reports(data: bytes) -> list[Report]:
    """Read every record of a launcher's datagram; ProtocolError at the first bad one."""
    return [parse_report(line) for line in _lines(data)]


def parse_seat_reports(data: bytes) -> list[SeatReport]:
    """Read every record of a seat's datagram; ProtocolError at the first bad one."""
    return [parse_seat_report(line) for line in _lines(data)]


def parse_report(line: str) -> Report:
    """Read one record of a launcher."""
    verb, _, rest = line.partition(" ")
    if verb == "start":
        conn, pid, name = _words(rest, 3)
        return Start(_number(conn), _number(pid, PID_MAX), _name(name))
    if verb == "end" and not rest.endswith(" -"):
        return _end(rest)
    if verb == "fail":
        return _fail(rest)
    if line == "ready":
        return Ready()
    if verb == "refuse":
        stage, text = _words(rest, 2)
        return Refuse(stage[:MAX_TEXT], text[:MAX_TEXT])
    if verb == "name":
        conn, name = _words(rest, 2)
        return Name(_number(conn), _name(name))
    if verb == "note":
        return Note(rest[:MAX_TEXT])
    raise ProtocolError("no such record")


def parse_seat_report(line: str) -> SeatReport:
    """Read one record of a worker, or of its launcher about it."""
    verb, _, rest = line.partition(" ")
    if verb == "end":
        return _end(rest)
    if verb == "hello":
        return Hello(_number(rest, PID_MAX))
    if line == "leave":
        return Leave()
    if verb == "crash":
        signal, status = _words(rest, 2)
        return Crash(_number(signal, 64), _number(status, 255))
    if verb == "kept":
        return Kept(() if rest == "-" else tuple(map(_number, rest.split(","))))
    if verb == "fail":
        return _fail(rest)
    if verb == "note":
        return Note(rest[:MAX_TEXT])
    raise ProtocolError("no such record")


def _lines(data: bytes) -> list[str]:
    try:
        lines = data.decode("ascii", "strict").split("\n")
    except UnicodeDecodeError as error:
        raise ProtocolError("not ASCII") from error
    return [line for line in lines if line]


def _end(rest: str) -> End:
    conn, signal, status, cpu = _words(rest, 4)
    return End(
        _number(conn),
        _number(signal, 64),
        _number(status, 255),
        None if cpu == "-" else _number(cpu) / 1e6,
    )


def _fail(rest: str) -> Fail:
    conn, stage, text = _words(rest, 3)
    return Fail(_number(conn), stage[:MAX_TEXT], text[:MAX_TEXT])


def _name(text: str) -> str:
    if text == "-":
        return ""
    if not _NAME.issuperset(text):
        raise ProtocolError("a name with other characters")
    return text


def _words(rest: str, count: int) -> list[str]:
    words = rest.split(" ", count - 1)
    if len(words) != count or not all(words):
        raise ProtocolError(f"not {count} words")
    return words


def _number(text: str, top: int = 10**_MAX_DIGITS) -> int:
    # int() also takes "+5", "1_0" and digits of other scripts: ask first.
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise ProtocolError("not a number")
    number = int(text)
    if number > top:
        raise ProtocolError("a number out of range")
    return number
