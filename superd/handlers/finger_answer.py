"""Compose the answer to a finger query (RFC 1288 2.5), whoever it is that knows.

The rule of the file: what comes from a user's file, a program or another host is cleaned
and bounded before it is an answer. The one exception is the operator's `plumbing: socket`.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers import (
    finger_accounts,
    finger_directory,
    finger_forward,
    finger_program,
    stdio,
)
from superd.handlers.conversation import WAIT, Work
from superd.handlers.exits import SetupError
from superd.handlers.finger_query import clean, is_name, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from superd.handlers.conversation import Step
    from superd.handlers.finger_loop import Helpers
    from superd.handlers.finger_query import Query
    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer
    from superd.handlers.wire import Wire

    T = TypeVar("T")
    Part = Generator[Step, Any, T]

ANSWER_BYTES: Final = 65536
"""The longest answer: many words in a query must not buy much output."""

FORWARDING_DENIED: Final = b"Finger forwarding service denied\r\n"
LIST_DENIED: Final = b"Finger online user list denied\r\n"


def find_program(options: Options) -> str | None:
    """Return the program that answers; None where superd does so itself.

    Raises SetupError for options that do not go together, or a program we may not run.
    """
    if options["source"] == "directory":
        if not options["directory"]:
            raise SetupError("option --source directory needs --directory PATH")
        return None
    if options["directory"]:
        raise SetupError("option --directory needs --source directory")
    return None if options["builtin"] else finger_program.find(options["program"])


def answer_to(query: Query, program: str | None, options: Options) -> Part[bytes]:
    """Compose the whole answer; empty where the program has given it."""
    if query.forward:
        return (yield from _forward(query, options))
    if not query.names:
        return shorten((yield from _list(query, program, options)), ANSWER_BYTES)
    plumbed = program is not None and options["plumbing"] == "socket"
    # Two programs on one connection, and what we say between them, have no order.
    most = 1 if plumbed else options["max_names"]
    if len(query.names) > most:
        return f"finger: at most {most} in one query\r\n".encode()
    deadline = monotonic() + options["program_timeout"]
    answer = b""
    for name in query.names:
        if not is_name(name):
            answer += b"finger: that is no user name\r\n"
        elif program is None:
            answer += yield from _tell(name, options, long=query.long)
        else:
            answer += yield from _have_told(name, query, program, deadline, options)
    return shorten(answer, ANSWER_BYTES)


def _forward(query: Query, options: Options) -> Part[bytes]:
    """Pass the query on to a host that is listed, or refuse."""
    hop = finger_forward.next_hop(query, options["forward_to"], options["forward_port"])
    if hop is None:
        return FORWARDING_DENIED
    deadline = monotonic() + options["forward_timeout"]
    heard, problem = yield Work(
        lambda: finger_forward.ask(hop, deadline, ANSWER_BYTES),
        lambda: _helpers().forward(hop, deadline, ANSWER_BYTES),
    )
    if problem:
        stdio.log(f"finger: {hop.host}: {problem}")
    answer = shorten(clean(heard, utf8=options["utf8"]), ANSWER_BYTES)
    return answer or f"finger: no answer from {hop.host}\r\n".encode("ascii", "replace")


def _list(query: Query, program: str | None, options: Options) -> Part[bytes]:
    """Answer the empty query: who is there."""
    if not options["list"]:
        return LIST_DENIED
    if program is not None:
        deadline = monotonic() + options["program_timeout"]
        long = ["-l"] if query.long else []
        return (yield from _ask(program, long, deadline, options))
    if options["source"] == "directory":
        told = yield _look(lambda: finger_directory.tell_names(options["directory"]))
    else:
        told = yield _look(lambda: finger_accounts.tell_logins(options["min_uid"]))
    return clean(told, utf8=options["utf8"])


def _tell(name: str, options: Options, *, long: bool) -> Part[bytes]:
    """Answer for a name without a program."""
    if options["source"] == "directory":
        path = options["directory"]
        told = yield _look(lambda: finger_directory.tell(path, name, ANSWER_BYTES))
    else:
        told = yield _look(
            lambda: finger_accounts.tell(
                name, options["min_uid"], plans=options["plans"], long=long
            )
        )
    return _nobody(name) if told is None else clean(told, utf8=options["utf8"])


def _have_told(
    name: str, query: Query, program: str, deadline: float, options: Options
) -> Part[bytes]:
    """Let the program answer for a name, if there is a user of that name."""
    account = yield _look(lambda: finger_accounts.find(name, options["min_uid"]))
    if account is None:
        return _nobody(name)
    # -m: the login name only, not everybody whose full name has that word; --: what
    # follows is a name, whatever it looks like.
    flags = [*(["-l"] if query.long else []), "-m", "--", name]
    return (yield from _ask(program, flags, deadline, options))


def _nobody(name: str) -> bytes:
    # Ours even where a program is: one text for unknown, hidden and system users, and no
    # time to measure the difference by.
    return f"{name}: no such user.\r\n".encode()


def _ask(
    program: str, flags: list[str], deadline: float, options: Options
) -> Part[bytes]:
    if options["plumbing"] == "socket":
        problem = yield Speak(program, flags, deadline)
        if problem:
            stdio.log(f"finger: {program}: {problem}")
        return b""
    output, cut = yield Work(
        lambda: finger_program.ask(program, flags, deadline, ANSWER_BYTES),
        lambda: _helpers().ask(program, flags, deadline, ANSWER_BYTES),
    )
    if cut:
        stdio.log(f"finger: {program}: {cut}")
    return clean(output, utf8=options["utf8"]) or b"finger: no answer\r\n"


class Speak(NamedTuple):
    """Let a program write to the connection itself; gives back what cut it short.

    Nothing of ours may be unsent, and nothing is read meanwhile.
    """

    program: str
    flags: list[str]
    deadline: float

    def blocking(self, wire: Wire) -> str:  # noqa: ARG002
        """Give it fd 1."""
        return finger_program.speak(self.program, self.flags, 1, self.deadline)

    def at_once(self, reader: Reader, writer: Writer) -> Any:  # noqa: ARG002
        """Leave it to waiting(): a program takes its time."""
        return WAIT

    async def waiting(self, reader: Reader, writer: Writer) -> str:  # noqa: ARG002
        """Give it the socket of the stream."""
        fd = writer.get_extra_info("socket").fileno()
        return await _helpers().speak(self.program, self.flags, fd, self.deadline)


def _look(work: Callable[[], Any]) -> Work:
    return Work(work, lambda: _helpers().look(work))


def _helpers() -> Helpers:
    # Threads and asyncio are an event loop's: a start under an inetd does without.
    from superd.handlers.finger_loop import helpers  # noqa: PLC0415

    return helpers()
