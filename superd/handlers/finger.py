"""Tell about users (RFC 1288): one line in, one answer out.

The rule of the file: every refusal is an answer on stdout. RFC 1288 3.2.1 asks for one,
and fingerd's classic "forwarding not allowed" goes to stderr, where no peer sees it.

Names go to the system's finger program, after a check of ours that there is a user whom
the world may hear of; where no such program is installed, superd tells login and full
name itself. Requests are never forwarded to another host.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import exits, finger_accounts, finger_program, stdio
from superd.handlers.conversation import Linger, Read, Work, Write, talk, talk_in_loop
from superd.handlers.finger_query import (
    LONGEST_LINE,
    BadQuery,
    Query,
    clean,
    is_name,
    parse_query,
)
from superd.handlers.run import run
from superd.handlers.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, TypeVar

    from superd.handlers.conversation import Conversation, Step
    from superd.handlers.finger_loop import Helpers
    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer

    T = TypeVar("T")
    Part = Generator[Step, Any, T]

OPTIONS: dict[str, dict[str, object]] = {
    "list": {
        "type": "bool",
        "default": False,
        "help": "answer an empty query with who is logged in (needs a finger program)",
    },
    "program": {
        "type": "path",
        "default": "",
        "help": "the finger program; called as PROGRAM [-l] [-m -- NAME]; by default"
        " the finger of /usr/bin, /bin or /usr/local/bin",
    },
    "builtin": {
        "type": "bool",
        "default": False,
        "help": "tell login and full name only, even where a finger program exists",
    },
    "min_uid": {
        "type": "int",
        "default": 1000,
        "min": 0,
        "help": "users with a lower uid are the system's and are not told of",
    },
    "max_names": {
        "type": "int",
        "default": 1,
        "min": 1,
        "max": 3,
        "help": "names answered in one query",
    },
    "utf8": {
        "type": "bool",
        "default": False,
        "help": "let printable UTF-8 through; without it the answer is ASCII",
    },
    "line_timeout": {
        "type": "float",
        "default": 10.0,
        "min": 0.1,
        "help": "seconds for the whole query line",
    },
    "program_timeout": {
        "type": "float",
        "default": 10.0,
        "min": 0.1,
        "help": "seconds for the finger program, for all names together",
    },
    "log_queries": {
        "type": "bool",
        "default": False,
        "help": "write each query to the log (fd 2)",
    },
}

ANSWER_TIME: Final = 30.0
"""Seconds for the peer to read the answer."""
ANSWER_BYTES: Final = 65536
"""The longest answer: many words in a query must not buy much output."""

FORWARDING_DENIED: Final = b"Finger forwarding service denied\r\n"
LIST_DENIED: Final = b"Finger online user list denied\r\n"


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("finger", OPTIONS, _answer, argv)


async def serve(reader: Reader, writer: Writer, options: Options) -> int:
    """Serve the connection in an event loop."""
    return await talk_in_loop(converse(options), reader, writer)


def _answer(options: Options) -> int:
    with Wire() as wire:
        return talk(converse(options), wire)


def converse(options: Options) -> Conversation:
    """Read the query, answer it; returns the exit code."""
    program = None if options["builtin"] else finger_program.find(options["program"])
    try:
        line = yield from _read_line(options["line_timeout"])
        if line is None:
            return exits.OK
        query = parse_query(line)
    except BadQuery as bad:
        yield from _say(f"finger: {bad}\r\n".encode(), "the refusal")
        raise exits.PeerError(str(bad)) from None
    except exits.TooSlow:
        yield from _say(b"finger: no query in time\r\n", "the refusal")
        raise
    if options["log_queries"]:
        stdio.log(f"finger: query {line!r}")
    answer = yield from _answer_to(query, program, options)
    yield from _say(answer, "the answer")
    return exits.OK


def _read_line(timeout: float) -> Part[bytes | None]:
    """Read the query up to its line end; None if the peer asks nothing."""
    deadline = monotonic() + timeout
    line = b""
    while b"\n" not in line:
        if len(line) >= LONGEST_LINE:
            raise BadQuery(f"the query is longer than {LONGEST_LINE} bytes")
        data = yield Read(LONGEST_LINE - len(line), deadline, "its query")
        if not data:
            return line or None
        line += data
    return line.partition(b"\n")[0].removesuffix(b"\r")


def _say(text: bytes, what: str) -> Part[None]:
    yield Write(text, monotonic() + ANSWER_TIME, what)
    yield Linger()


def _answer_to(query: Query, program: str | None, options: Options) -> Part[bytes]:
    """Compose the whole answer to a query."""
    if query.forward:
        return FORWARDING_DENIED
    long = ["-l"] if query.long else []
    deadline = monotonic() + options["program_timeout"]
    if not query.names:
        if program is None or not options["list"]:
            return LIST_DENIED
        return (yield from _ask(program, long, deadline, options))
    if len(query.names) > options["max_names"]:
        return f"finger: at most {options['max_names']} in one query\r\n".encode()
    answer = b""
    for name in query.names:
        answer += yield from _answer_name(name, program, long, deadline, options)
    return answer[:ANSWER_BYTES]


def _answer_name(
    name: str,
    program: str | None,
    long: list[str],
    deadline: float,
    options: Options,
) -> Part[bytes]:
    if not is_name(name):
        return b"finger: that is no user name\r\n"
    account = yield _find(name, options["min_uid"])
    if account is None:
        # Ours even where a program is: one text for unknown, hidden and system users,
        # and no time to measure the difference by.
        return f"{name}: no such user.\r\n".encode()
    if program is None:
        return clean(finger_accounts.describe(account), utf8=options["utf8"])
    # -m: the login name only, not everybody whose full name has that word; --: what
    # follows is a name, whatever it looks like.
    flags = [*long, "-m", "--", name]
    return (yield from _ask(program, flags, deadline, options))


def _ask(
    program: str, flags: list[str], deadline: float, options: Options
) -> Part[bytes]:
    output, cut = yield _run(program, flags, deadline)
    if cut:
        stdio.log(f"finger: {program}: {cut}")
    return clean(output, utf8=options["utf8"]) or b"finger: no answer\r\n"


def _find(name: str, min_uid: int) -> Work:
    return Work(
        lambda: finger_accounts.find(name, min_uid),
        lambda: _helpers().find(name, min_uid),
    )


def _run(program: str, flags: list[str], deadline: float) -> Work:
    return Work(
        lambda: finger_program.ask(program, flags, deadline, ANSWER_BYTES),
        lambda: _helpers().ask(program, flags, deadline, ANSWER_BYTES),
    )


def _helpers() -> Helpers:
    # Threads and asyncio are an event loop's: a start under an inetd does without.
    from superd.handlers.finger_loop import helpers  # noqa: PLC0415

    return helpers()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
