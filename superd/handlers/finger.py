"""Tell about users (RFC 1288): one line in, one answer out.

The rule of the file: every refusal is an answer on stdout. RFC 1288 3.2.1 asks for one,
and fingerd's classic "forwarding not allowed" goes to stderr, where no peer sees it.

Names go to the system's finger program, after a check of ours that there is a user whom
the world may hear of; where no such program is installed, superd itself tells login, full
name and what the user has put into .project and .plan. With `source: directory` there
are no users: each file of a directory is somebody. A query for another host is refused,
unless the operator has listed that very host.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import exits, stdio
from superd.handlers.conversation import Linger, Read, Write, talk, talk_in_loop
from superd.handlers.finger_answer import answer_to, find_program
from superd.handlers.finger_query import LONGEST_LINE, BadQuery, parse_query
from superd.handlers.run import run
from superd.handlers.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, TypeVar

    from superd.handlers.conversation import Conversation, Step
    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer

    T = TypeVar("T")
    Part = Generator[Step, Any, T]

OPTIONS: dict[str, dict[str, object]] = {
    "list": {
        "type": "bool",
        "default": False,
        "help": "answer an empty query with who is logged in, or with the names of the"
        " directory",
    },
    "source": {
        "type": "choice",
        "choices": ["accounts", "directory"],
        "default": "accounts",
        "help": "of whom to tell: the users of this machine, or one text file a name",
    },
    "directory": {
        "type": "path",
        "default": "",
        "help": "the text files of `source: directory`; none that is a link, hidden, or"
        " not readable for everybody",
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
        "help": "answer without a finger program, even where there is one",
    },
    "plans": {
        "type": "bool",
        "default": True,
        "help": "without a finger program: tell .project and .plan of a user, and for /W"
        " .pgpkey",
    },
    "plumbing": {
        "type": "choice",
        "choices": ["pipe", "socket"],
        "default": "pipe",
        "help": "what the finger program writes to: a pipe to us, so that the answer is"
        " cleaned and bounded, or the connection itself, where it is neither",
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
        "help": "names answered in one query; one with `plumbing: socket`",
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
    "forward_to": {
        "type": "list",
        "default": [],
        "help": "hosts that are asked for `user@host`; every other is refused",
    },
    "forward_port": {
        "type": "int",
        "default": 79,
        "min": 1,
        "max": 65535,
        "help": "the port of those hosts",
    },
    "forward_timeout": {
        "type": "float",
        "default": 10.0,
        "min": 0.1,
        "help": "seconds for the other host, its name's lookup included",
    },
    "log_queries": {
        "type": "bool",
        "default": False,
        "help": "write each query to the log (fd 2)",
    },
}

ANSWER_TIME: Final = 30.0
"""Seconds for the peer to read the answer."""


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
    program = find_program(options)
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
    answer = yield from answer_to(query, program, options)
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
    if text:
        yield Write(text, monotonic() + ANSWER_TIME, what)
    yield Linger()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
