"""Put a request to a host and read its answer.

The rule of the file: a request is sent a second time only where the first can have had no
effect: nothing of its answer came, it came over a kept connection which the host may have
been closing, and its method is safe to repeat (RFC 9110 9.2.2, RFC 9112 9.3.1).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.forward import reach
from superd.handlers.forward.client import CHUNK, MORSEL
from superd.handlers.forward.fields import without
from superd.handlers.forward.framing import (
    BadFraming,
    Body,
    Truncated,
    UntilEnd,
    announced_length,
    reply_body,
)
from superd.handlers.forward.pages import Failed
from superd.handlers.forward.reply import BadReply, Reply
from superd.handlers.forward.upstream import Late, Lost, Upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from superd.handlers.forward.client import Client
    from superd.handlers.forward.plan import Parent, Plan
    from superd.handlers.forward.target import Target
    from superd.handlers.forward.upload import Upload
    from superd.handlers.forward.upstream import Key, Upstreams

IDEMPOTENT: Final = frozenset(
    {b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"}
)
"""RFC 9110 9.2.2. Others never go over a connection that was kept, so that there is
never a doubt whether they were carried out."""
_INTERIM: Final = 64
"""Heads of interim answers before the final one."""
_LOOK: Final = 1.0
"""Seconds between two looks whether the peer is still there."""


_LENGTH: Final = frozenset({b"content-length"})


class Cut(Exception):  # noqa: N818  what happened
    """The body of an answer ends before its end, or is malformed; the text says how."""


class Question(NamedTuple):
    """What a host is asked."""

    method: bytes
    target: Target
    lines: bytes
    """The fields as they are sent, with their line ends; Host is not among them."""
    length: int | None = 0
    """Bytes of the body; None: it is chunked."""

    def head(self, parent: Parent | None, extra: bytes) -> bytes:
        """Spell the head, as a parent or the host itself wants it (RFC 9112 3.2)."""
        target = self.target
        # A CONNECT names host and port, whoever is asked (9.3.6).
        tunnels = self.method == b"CONNECT"
        path = target.endpoint if tunnels else target.url if parent else target.path
        framing = b"Transfer-Encoding: chunked\r\n" if self.length is None else b""
        if parent and parent.credentials:
            extra += b"Proxy-Authorization: %b\r\n" % parent.credentials
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b\r\n" % (
            self.method,
            path,
            target.endpoint if tunnels else target.authority,
            self.lines,
            framing,
            extra,
        )


class Route(NamedTuple):
    """Everything that decides where a connection goes, besides the host."""

    plan: Plan
    upstreams: Upstreams
    own: Callable[[], tuple[str, int] | None]
    """Tells where the peer came in, which is never connected to."""

    def parent_of(self, target: Target) -> Parent | None:
        """Return the proxy that requests for this host are given to."""
        parent = self.plan.parent
        if parent is None:
            return None
        path = target.path or None
        exempt = parent.exempt.objection(target.host, target.port, path)
        return None if exempt else parent

    async def connect(self, target: Target, parent: Parent | None) -> Upstream:
        """Connect to a host, or to the parent for it. Raises Failed."""
        plan = self.plan
        deadline = monotonic() + plan.timeouts.connect
        try:
            if parent:
                where = parent.host, parent.port
                sock = await reach.reach(*where, reach.ANYWHERE, deadline)
            else:
                where = target.host, target.port
                sock = await reach.reach(*where, plan.guard, deadline, own=self.own())
        except reach.Unreachable as error:
            raise _failed(error) from None
        plan.counters.add_connect(reused=False)
        return Upstream(sock, key_of(target, parent), plan.bounds.head)

    def check_literal(self, target: Target) -> None:
        """Raise Failed for an address that the parent must not be asked for.

        For each request: a connection to the parent says nothing of where it leads.
        """
        try:
            reach.check_literal(target.host, target.port, self.plan.guard)
        except reach.Unreachable as error:
            raise _failed(error) from None


class Asking:
    """One question, the connection that it goes over, and the answer."""

    __slots__ = (
        "_client",
        "_extra",
        "_question",
        "_route",
        "_upload",
        "body",
        "upstream",
    )

    def __init__(
        self,
        route: Route,
        question: Question,
        client: Client | None = None,
        extra: bytes = b"",
    ) -> None:
        """Take the peer whose request it is; its body is passed on as it comes."""
        self._route = route
        self._question = question
        self._client = client
        self._extra = extra
        self._upload: Upload | None = None
        self.upstream: Upstream
        self.body: Body

    async def ask(
        self,
        interim: Callable[[Reply], Awaitable[None]] | None = None,
        upload: Callable[[Upstream], Upload] | None = None,
    ) -> Reply:
        """Return the head of the answer. Raises Failed, and what the peer's body does."""
        question, route = self._question, self._route
        parent = route.parent_of(question.target)
        if parent:
            route.check_literal(question.target)
        key = key_of(question.target, parent)
        kept = question.method in IDEMPOTENT and not upload
        head = question.head(parent, self._extra)
        timeouts = route.plan.timeouts
        while True:
            upstream = route.upstreams.take(key) if kept else None
            if upstream is None:
                upstream = await route.connect(question.target, parent)
            else:
                route.plan.counters.add_connect(reused=True)
            self.upstream = upstream
            try:
                await upstream.send(head, monotonic() + timeouts.send)
                if upload:
                    self._upload = upload(upstream)
                reply = await self._final(interim)
                self.body = reply_body(reply, question.method)
                reply = _with_one_length(reply)
            except Lost as error:
                upstream.close()
                if upstream.used:
                    kept = False
                    continue
                await self._give_up()
                raise Failed(
                    502,
                    f"the host {_host_of(question)} gave no answer: {error}",
                    "connection_terminated",
                ) from None
            except BadReply as error:
                await self._give_up()
                raise Failed(
                    502,
                    f"the host {_host_of(question)} answered what is no HTTP: {error}",
                    "http_protocol_error",
                ) from None
            except Late:
                await self._give_up()
                raise Failed(
                    504,
                    f"the host {_host_of(question)} did not answer in time",
                    "http_response_timeout",
                ) from None
            except BaseException:
                await self.abandon()
                raise
            return reply

    async def _final(self, interim: Callable[[Reply], Awaitable[None]] | None) -> Reply:
        since = monotonic()
        for _ in range(_INTERIM):
            reply = await self._head(since)
            if reply.status >= 200 or reply.status == 101:  # noqa: PLR2004
                return reply
            if interim:
                await interim(reply)
        raise BadReply("interim answers without end")

    async def _head(self, since: float) -> Reply:
        """Wait for a head as long as the host may take, or its peer's body moves.

        The time runs from `since` on: interim answers do not begin it anew.
        """
        upload, upstream = self._upload, self.upstream
        patience = self._route.plan.timeouts.reply
        while True:
            try:
                return await upstream.next_head(
                    min(monotonic() + _LOOK, since + patience)
                )
            except Late:
                if upload and not upload.task.done():
                    since = max(since, upload.moved)
                elif self._client is not None:
                    self._client.look()
                if monotonic() >= since + patience:
                    raise

    async def read(self) -> bytes:
        """Return what has come of the body, empty at its end. Raises Cut."""
        body = self.body
        data = self.upstream.take()
        patience = self._route.plan.timeouts.reply
        try:
            while True:
                payload = body.feed(data)
                if payload or body.done:
                    return payload
                most = MORSEL if body.costly else CHUNK
                data = await self.upstream.read(monotonic() + patience, most)
                if not data:
                    self._check_upload()
                    body.end()
                    return b""
        except Truncated:
            raise Cut("the answer ends before its end") from None
        except BadFraming as error:
            raise Cut(str(error)) from None
        except Lost as error:
            raise Cut(f"the connection to the host failed: {error}") from None
        except Late:
            raise Cut("the host was silent in the middle of its answer") from None

    def _check_upload(self) -> None:
        """Raise Cut where it is the peer's body that has ended the connection.

        An answer that ends with its connection would be taken for whole.
        """
        task = self._upload.task if self._upload else None
        if task and task.done() and not task.cancelled() and task.exception():
            raise Cut("the body of the request had no good end")

    async def end(self, reply: Reply) -> bool:
        """Keep the connection for the next request, or close it.

        Returns whether the peer's body has been passed on to its end.
        """
        upload = self._upload
        whole = upload is None or await upload.is_whole()
        body = self.body
        lasting = (
            whole
            and body.done
            and not body.rest
            and not body.doubtful
            and not isinstance(body, UntilEnd)
            and is_lasting(reply)
        )
        if lasting:
            self._route.upstreams.keep(self.upstream)
        else:
            self.upstream.close()
        return whole

    async def _give_up(self) -> None:
        """Close the connection. Raises what was wrong with the peer's body, if that was it.

        Then the host is not to blame.
        """
        self.upstream.close()
        if self._upload and (error := await self._upload.stop()):
            raise error

    async def abandon(self) -> None:
        """Close the connection, whatever is under way."""
        self.upstream.close()
        if self._upload:
            await self._upload.stop()


def _with_one_length(reply: Reply) -> Reply:
    """Return an answer in which Content-Length stands once, and is a length.

    Also where it announces what does not follow, as after HEAD. Raises BadReply.
    """
    told = reply.values(b"content-length")
    length = announced_length(reply)
    if length is None or (len(told) == 1 and told[0].isdigit()):
        return reply
    fields = without(reply.fields, _LENGTH)
    return reply._replace(fields=[*fields, (b"Content-Length", b"%d" % length)])


def key_of(target: Target, parent: Parent | None) -> Key:
    """Name where a connection leads.

    One to the parent was never judged as that to a host is, and does not stand for one.
    """
    if parent is None:
        return target.host, target.port
    return f"proxy {parent.host}", parent.port


def _failed(error: reach.Unreachable) -> Failed:
    return Failed(error.status, error.problem, error.error, error.detail)


def is_lasting(reply: Reply) -> bool:
    """Tell whether the host goes on after this answer (RFC 9112 9.3)."""
    if not reply.minor:
        return False
    for value in reply.values(b"connection"):
        if any(one.strip(b" \t").lower() == b"close" for one in value.split(b",")):
            return False
    return True


def _host_of(question: Question) -> str:
    return question.target.authority.decode("ascii")
