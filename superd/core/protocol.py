"""Encode and judge what master and launcher say to each other.

One datagram of a SOCK_SEQPACKET pair holds one or more records, a line each: a verb and
its words. Descriptors ride along in the order of the records that need one. What a
launcher says is hostile input: `parse_reports` accepts exactly the forms below and nothing
else; numbers are bounded before they are read.

    master to launcher                          descriptor
      conn CONN NUMBER HOST PORT                the connection
      wait CONN                                 the listener, for a wait program
      serve CONN PORT,PORT,...                  the listener, for a datagram handler;
                                                the ports of all our UDP services
      kill CONN TERM|KILL                       -
      retire                                    -   finish what you have, then end
    launcher to master
      ready                                     the read end of its handlers' stderr
      refuse STAGE TEXT                         -   then it ends
      start CONN PID NAME|-                     -
      fail CONN STAGE TEXT                      -
      end CONN SIGNAL STATUS CPU_US             -
      note TEXT                                 -   a line for the log
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
    """A handler was reaped."""

    conn: int
    signal: int
    status: int
    cpu: float


class Note(NamedTuple):
    """A line for the log."""

    text: str


Report = Ready | Refuse | Start | Fail | End | Note


def clean(text: str) -> str:
    """Make free text fit for a record: one line, bounded."""
    return " ".join(text.split())[:MAX_TEXT] or "-"


def parse_reports(data: bytes) -> list[Report]:
    """Read every record of one datagram; ProtocolError at the first bad one."""
    try:
        lines = data.decode("ascii", "strict").split("\n")
    except UnicodeDecodeError as error:
        raise ProtocolError("not ASCII") from error
    return [parse_report(line) for line in lines if line]


def parse_report(line: str) -> Report:
    """Read one record of a launcher."""
    verb, _, rest = line.partition(" ")
    if verb == "start":
        conn, pid, name = _words(rest, 3)
        if name == "-":
            name = ""
        elif not _NAME.issuperset(name):
            raise ProtocolError("a name with other characters")
        return Start(_number(conn), _number(pid, PID_MAX), name)
    if verb == "end":
        conn, signal, status, cpu = _words(rest, 4)
        return End(
            _number(conn),
            _number(signal, 64),
            _number(status, 255),
            _number(cpu) / 1e6,
        )
    if verb == "fail":
        conn, stage, text = _words(rest, 3)
        return Fail(_number(conn), stage[:MAX_TEXT], text[:MAX_TEXT])
    if line == "ready":
        return Ready()
    if verb == "refuse":
        stage, text = _words(rest, 2)
        return Refuse(stage[:MAX_TEXT], text[:MAX_TEXT])
    if verb == "note":
        return Note(rest[:MAX_TEXT])
    raise ProtocolError("no such record")


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
