"""Serve the requests of one connection, one after the other.

The rule of the file: every request that arrives whole gets one answer, and whatever
leaves doubt about where the next request begins ends the connection after it. It is a
conversation (superd/handlers/conversation.py): it asks for bytes and gives bytes, and how
they come and go is not its business.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from superd.handlers import exits, stdio
from superd.handlers.conversation import Linger, Read, SendAtOnce
from superd.handlers.http.accesslog import Entry
from superd.handlers.http.answer import Answer, Later, answer_to, explain
from superd.handlers.http.body import drop_body
from superd.handlers.http.credentials import credentials_of
from superd.handlers.http.refusal import MALFORMED, Refused
from superd.handlers.http.request import HeadReader, Request
from superd.handlers.http.sending import send
from superd.handlers.threads import apart

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from superd.handlers.conversation import Conversation, Step
    from superd.handlers.http.site import Site

_GLIMPSE: Final = 256
"""Bytes of a request that could not be read, for the log."""


def converse(
    site: Site,
    root: int,
    peer: Callable[[], str] = str,
    retiring: Callable[[], bool] = bool,
) -> Conversation:
    """Answer until one side wants no more; returns the exit code.

    `root` is a descriptor of the folder, `peer` tells the address for the log, `retiring`
    whether the answer to a request that has come should be the last.
    """
    connection = _Connection(site, root, peer, retiring)
    most = site.bounds.requests
    for number in range(1, most + 1):
        if number == 2:  # noqa: PLR2004
            # One answer leaves at once anyhow. Of two, Nagle's algorithm would hold the
            # second back until the first is acknowledged, which a peer that waits puts
            # off for 40 ms (RFC 1122 4.2.3.2, 4.2.3.4).
            yield SendAtOnce()
        code = yield from connection.serve_one(first=number == 1, last=number == most)
        if code is not None:
            return code
    return exits.OK


class _Connection:
    """What the requests of a connection share."""

    __slots__ = (
        "_address",
        "_began",
        "_line",
        "_peer",
        "_reader",
        "_request",
        "_retiring",
        "_root",
        "_site",
        "_user",
    )

    def __init__(
        self,
        site: Site,
        root: int,
        peer: Callable[[], str],
        retiring: Callable[[], bool],
    ) -> None:
        self._site = site
        self._root = root
        self._peer = peer
        self._retiring = retiring
        self._address: str | None = None
        self._reader = HeadReader(site.bounds.head)
        self._forget()

    def _forget(self) -> None:
        self._began = 0.0
        self._line = self._user = b""
        self._request: Request | None = None

    def serve_one(self, *, first: bool, last: bool) -> Generator[Step, Any, int | None]:
        """Serve a request; returns the exit code where it is the last."""
        self._forget()
        try:
            request = yield from self._read_request(first=first)
            if request is None:
                return exits.OK
            keep = request.keep_alive and not last
            if request.length != 0:
                keep = (yield from self._drop_body(request)) and keep
            answer = yield from self._answer(request)
        except Refused as refused:
            return (yield from self._refuse(refused))
        except exits.TooSlow:
            yield from self._refuse(Refused(408, "no request in time"))
            raise
        except Exception:
            yield from self._refuse(Refused(500, "something is wrong here"))
            raise
        keep = keep and not self._is_over()
        whole = yield from self._send(answer, keep=keep)
        if keep and whole:
            return None
        # RFC 9112 9.6: a server that closes first does so in two steps.
        yield Linger()
        return exits.OK

    def _is_over(self) -> bool:
        """Tell whether to end here; who has sent requests ahead gets all answers."""
        return self._retiring() and not self._reader.pending

    def _drop_body(self, request: Request) -> Generator[Step, Any, bool]:
        """Read the body away; False where nobody knows whether it comes."""
        if request.minor and b"100-continue" in request.options(b"expect"):
            # An answer instead of 100: the body may come or not (RFC 9110 10.1.1).
            return False
        site = self._site
        yield from drop_body(
            request, self._reader, site.bounds.body, site.timeouts.body
        )
        return True

    def _refuse(self, refused: Refused) -> Generator[Step, Any, int]:
        """Say why, end the connection; returns the exit code."""
        yield from self._send(self._explain(refused), keep=False)
        yield Linger()
        if refused.status not in MALFORMED:
            return exits.OK
        detail = f" ({refused.detail})" if refused.detail else ""
        stdio.log(f"httpd: {refused.status}: {refused}{detail}")
        return exits.PEER

    def _explain(self, refused: Refused) -> Answer:
        """Make the page of a request of which no host is known yet."""
        return explain(refused, self._site, None if self._site.vhosts else self._root)

    def _read_request(self, *, first: bool) -> Generator[Step, Any, Request | None]:
        """Read the next head; None if the peer has no further request.

        The time for a head runs from the moment the peer may begin, for the first one, or
        has begun; it is the time of the whole head, not of a byte.
        """
        reader, timeouts = self._reader, self._site.timeouts
        if not first and not reader.pending:
            idle = time.monotonic() + timeouts.idle
            try:
                data = yield Read(stdio.CHUNK, idle, "its next request", idle=True)
            except exits.TooSlow:
                return None
            if not data:
                return None
            reader.feed(data)
        self._began = time.monotonic()
        try:
            head = yield from self._read_head(self._began + timeouts.head)
        except (Refused, exits.TooSlow):
            self._line = reader.take()[:_GLIMPSE].partition(b"\n")[0].rstrip(b"\r")
            raise
        if head is None:
            return None
        self._line = head.partition(b"\r\n")[0]
        self._request = reader.parse(head)
        return self._request

    def _read_head(self, deadline: float) -> Generator[Step, Any, bytes | None]:
        reader = self._reader
        while not reader.pending or (head := reader.next_head()) is None:
            data = yield Read(stdio.CHUNK, deadline, "its request")
            if data:
                reader.feed(data)
            elif reader.pending:
                raise Refused(400, "the request ends in the middle")
            else:
                return None
        return head

    def _answer(self, request: Request) -> Generator[Step, Any, Answer]:
        try:
            if self._site.passwords is not None:
                yield from self._authenticate(request)
        except Refused as refused:
            return self._explain(refused)
        found = answer_to(request, self._site, self._root)
        if isinstance(found, Later):
            found = yield apart(found.make)
        return found

    def _authenticate(self, request: Request) -> Generator[Step, Any, None]:
        """Find out who asks. Raises Refused."""
        passwords = self._site.passwords
        who = credentials_of(request)
        if passwords is None or who is None:
            good = False
        else:
            good = passwords.knows(who) or (yield apart(partial(passwords.check, who)))
        if not good or who is None:
            challenge = passwords.challenge if passwords else ""
            raise Refused(
                401,
                "a user and a password are needed",
                (("WWW-Authenticate", challenge),),
            )
        self._user = who.user

    def _send(self, answer: Answer, *, keep: bool) -> Generator[Step, Any, bool]:
        """Send an answer, note it in the log; False if it came out too short."""
        request, site = self._request, self._site
        minor = request.minor if request else 1
        # Of one that could not be read, too (RFC 9110 9.3.2).
        bare = self._line.startswith(b"HEAD ")
        whole = False
        size = 0
        try:
            size, whole = yield from send(
                answer, site, keep=keep, minor=minor, bare=bare
            )
        finally:
            if site.log is not None:
                self._note(site.log.write, answer.status, size)
        return whole

    def _note(
        self, write: Callable[[Entry, float], None], status: int, size: int
    ) -> None:
        seconds = time.monotonic() - self._began if self._began else 0.0
        if self._address is None:
            # Once for all requests: in a loop it takes an environment to be made.
            self._address = self._peer()
        entry = Entry(
            self._address, self._user, self._line, self._request, status, size, seconds
        )
        write(entry, time.time())
