"""Serve the requests of one peer, one after the other.

The rule of the file: every request that arrives whole gets one answer and one record, and
whatever leaves doubt about where the next request begins ends the connection after it.
"""

from __future__ import annotations

from asyncio import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers import exits, stdio
from superd.handlers.forward import apart, pages, tunnel
from superd.handlers.forward import fields as fieldwork
from superd.handlers.forward.asking import Question, Route
from superd.handlers.forward.client import Client
from superd.handlers.forward.framing import request_body
from superd.handlers.forward.pages import Failed
from superd.handlers.forward.passing import Passing
from superd.handlers.forward.record import Record, shown
from superd.handlers.forward.target import parse_absolute, parse_authority
from superd.handlers.http.refusal import MALFORMED, Refused

if TYPE_CHECKING:
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.plan import Plan
    from superd.handlers.forward.target import Target
    from superd.handlers.forward.upstream import Upstreams
    from superd.handlers.http.request import Request
    from superd.handlers.streams import Reader, Writer

_EXPECTED: Final = frozenset({b"100-continue"})
_ASKED_FOR_HOPS: Final = frozenset({b"OPTIONS", b"TRACE"})
_FORBIDDEN: Final = 403
_GLIMPSE: Final = 256
"""Bytes of a request that could not be read, for the record."""


class Onward(NamedTuple):
    """The fields of a request as they go on, but for Host."""

    fields: list[Field]
    lines: bytes
    passed: bool
    """It has been here before: it goes round."""


class Session:
    """The requests of one connection."""

    def __init__(
        self,
        plan: Plan,
        upstreams: Upstreams,
        reader: Reader,
        writer: Writer,
        peer: str,
    ) -> None:
        """Take the streams, and the address of the peer as it is written down."""
        self._plan = plan
        self._client = Client(plan, reader, writer)
        self._peer = peer
        self._route = Route(plan, upstreams, partial(own_of, writer))
        self._record = Record()
        self._before: tuple[tuple[int, bytes], Onward] | None = None

    async def run(self) -> int:
        """Serve until one side wants no more; returns the exit code."""
        client = self._client
        most = self._plan.bounds.requests
        for number in range(1, most + 1):
            if number > 1 and not await client.begins():
                break
            self._record = Record()
            client.begun = False
            received, sent = client.received - client.heads.size, client.sent
            try:
                code = await self._serve_one(last=number == most)
            except BaseException as error:
                self._record.note = self._record.note or _name_of(error)
                raise
            finally:
                record = self._record
                record.received = client.received - client.heads.size - received
                record.sent += client.sent - sent
                if record.status or record.method:
                    record.tell(self._peer, self._plan.log, self._plan.counters)
            if code is not None:
                return code
        return exits.OK

    async def _serve_one(self, *, last: bool) -> int | None:
        """Serve a request; returns the exit code where it is the last."""
        client, record = self._client, self._record
        request: Request | None = None
        try:
            head = await client.next_head()
            if head is None:
                return exits.OK
            line, _, rest = head.partition(b"\r\n")
            record.url = shown(line)[:_GLIMPSE]
            request = client.heads.parse(head)
            last = last or client.is_over(request)
            record.method, record.url = request.method, shown(request.target)
            if request.method == b"CONNECT":
                return await self._tunnel(request, rest)
            keep = await self._pass_on(request, rest, last=last)
        except Refused as refused:
            return await self._refuse(refused, request, last=last)
        except exits.TooSlow as slow:
            if request is None and not client.heads.pending:
                # Not a byte: browsers connect before they know what they want.
                return exits.OK
            if not record.status:
                await self._refuse(Refused(408, str(slow)), None, last=True)
            raise
        except ConnectionError:
            raise
        except Exception:
            if not record.status:
                wrong = Refused(500, "something is wrong here")
                await self._refuse(wrong, None, last=True)
            raise
        return None if keep else exits.OK

    # -- refusing ---------------------------------------------------------------------

    async def _refuse(
        self, refused: Refused, request: Request | None, *, last: bool
    ) -> int | None:
        """Say why; returns the exit code where that was the last request."""
        client, record = self._client, self._record
        if record.status:
            # The answer had begun: only its end can still tell that it is not whole.
            record.note = str(refused)
            return exits.OK
        record.status = refused.status
        record.note = refused.detail or str(refused)
        if request is None:
            # What there is was read as a request, and it is the last.
            client.heads.take()
        if isinstance(refused, Failed) and refused.status == _FORBIDDEN:
            record.cache = ""
        keep = bool(
            request
            and not last
            and request.minor
            and request.keep_alive
            and refused.status not in MALFORMED
        )
        if keep and request and request.length != 0:
            # Whether the body of one that expects 100 comes, nobody knows (10.1.1).
            keep = (
                not client.begun
                and not request.values(b"expect")
                and await client.drop(request_body(request))
            )
        url = record.url if request else b""
        lines, page = pages.page_of(refused, url, self._plan.identity.name)
        head = pages.head_of(refused.status, lines, keep=keep)
        bare = request is not None and request.method == b"HEAD"
        await client.send(head if bare else head + page)
        if keep:
            return None
        if refused.status not in MALFORMED:
            return exits.OK
        detail = f" ({refused.detail})" if refused.detail else ""
        stdio.log(f"proxy: {refused.status}: {refused}{detail}")
        return exits.PEER

    # -- deciding ---------------------------------------------------------------------

    async def _pass_on(self, request: Request, rest: bytes, *, last: bool) -> bool:
        """Answer a request that is no CONNECT; returns whether a next one may come."""
        if request.target.startswith(b"/") or request.target == b"*":
            return await self._serve_own(request, last=last)
        await self._authenticate(request)
        target = parse_absolute(request.target, request.method)
        self._record.url = target.url
        unknown = request.options(b"expect") - _EXPECTED
        if unknown:
            raise Refused(417, "this expectation cannot be met")
        most = self._plan.bounds.body
        if most and request.length and request.length > most:
            raise Refused(413, f"a body of more than {most} bytes")
        self._check(target, target.path)
        _forbid(self._plan.http_ports.objection(target.port))
        onward = self._onward(rest, request)
        if onward.passed:
            raise Failed(508, "the request has come through this proxy before")
        if request.method in _ASKED_FOR_HOPS:
            hops = fieldwork.max_forwards(onward.fields)
            if hops == 0:
                return await self._answer_ourselves(request, onward, last=last)
            if hops is not None:
                fields = fieldwork.with_max_forwards(onward.fields, hops - 1)
                onward = Onward(fields, fieldwork.lines_of(fields), passed=False)
        keep = request.minor == 1 and request.keep_alive and not last
        question = Question(request.method, target, onward.lines, request.length)
        passing = Passing(self._client, self._record, request, question, self._route)
        if self._plan.upgrade and wants_upgrade(request):
            return await passing.switch()
        if self._plan.desk is not None:
            return await self._plan.desk.serve(passing, onward.fields, keep=keep)
        return await passing.run(keep=keep)

    def _check(self, target: Target, path: bytes | None) -> None:
        _forbid(self._plan.rules.objection(target.host, target.port, path))

    def _onward(self, rest: bytes, request: Request) -> Onward:
        """Rewrite the fields; most peers send the same with each request."""
        key = request.minor, rest
        if self._before is not None and self._before[0] == key:
            return self._before[1]
        identity = self._plan.identity
        received = fields_of(rest)
        passed = fieldwork.has_passed(received, identity.name)
        fields = fieldwork.request_fields(
            received, identity, host=b"", minor=request.minor, peer=self._peer_host()
        )[1:]
        onward = Onward(fields, fieldwork.lines_of(fields), passed)
        self._before = key, onward
        return onward

    def _peer_host(self) -> str:
        host = self._peer.rpartition(":")[0] or self._peer
        return host.strip("[]")

    async def _authenticate(self, request: Request, *, own: bool = False) -> None:
        """Find out who asks, for a page of our `own` as any server does. Raises Refused."""
        users = self._plan.users
        if users is None:
            return
        name = b"authorization" if own else b"proxy-authorization"
        values = request.values(name)
        who = users.read(values)
        known = who is not None and users.knows(who)
        if who is not None and not known and apart.is_busy():
            problem = "too many passwords are being checked: ask again in a moment"
            raise Refused(503, problem, (("Retry-After", "1"),))
        if who is not None and (known or await apart.begin(users.check, who)):
            self._record.user = who.user
            return
        status, field = (
            (401, "WWW-Authenticate") if own else (407, "Proxy-Authenticate")
        )
        raise Refused(
            status,
            "a user and a password of this proxy are needed",
            ((field, users.challenge),),
        )

    # -- what is not for others -------------------------------------------------------

    async def _serve_own(self, request: Request, *, last: bool) -> bool:
        """Answer a request that names no host: the counters, or what a proxy is."""
        plan = self._plan
        if plan.status and request.target == plan.status:
            await self._authenticate(request, own=True)
            if request.method not in (b"GET", b"HEAD"):
                raise Refused(
                    405, "counters can only be read", (("Allow", "GET, HEAD"),)
                )
            text = plan.counters.text().encode("ascii")
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return await self._say(request, text, kind, last=last)
        if request.target == b"*" and request.method == b"OPTIONS":
            return await self._say(request, b"", "text/plain", last=last)
        raise Refused(400, "this is a proxy: the target has to be a whole address")

    async def _answer_ourselves(
        self, request: Request, onward: Onward, *, last: bool
    ) -> bool:
        """Answer what has come as far as it may: Max-Forwards is 0 (RFC 9110 7.6.2)."""
        if request.method == b"OPTIONS":
            return await self._say(request, b"", "text/plain", last=last)
        # No credentials, no cookies: whoever reads the answer may be a script (9.3.8).
        shown = fieldwork.without(
            onward.fields, frozenset({b"authorization", b"cookie"})
        )
        text = b"TRACE %b HTTP/1.%d\r\n%b\r\n" % (
            request.target,
            request.minor,
            fieldwork.lines_of(shown),
        )
        return await self._say(request, text, "message/http", last=last)

    async def _say(
        self, request: Request, body: bytes, kind: str, *, last: bool
    ) -> bool:
        keep = request.minor == 1 and request.keep_alive and not last
        if request.length != 0:
            keep = await self._client.drop(request_body(request)) and keep
        lines = pages.lines_of(
            [
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
            ]
        )
        self._record.status = 200
        head = pages.head_of(200, lines, keep=keep)
        await self._client.send(head if request.method == b"HEAD" else head + body)
        return keep

    # -- tunnels ----------------------------------------------------------------------

    async def _tunnel(self, request: Request, rest: bytes) -> int:
        """Connect the peer with a host; returns the exit code."""
        await self._authenticate(request)
        if request.length != 0:
            raise Refused(400, "CONNECT has no body")
        target = parse_authority(request.target)
        _forbid(self._plan.ports.objection(target.port))
        self._check(target, None)
        if fieldwork.has_passed(fields_of(rest), self._plan.identity.name):
            raise Failed(508, "the request has come through this proxy before")
        return await tunnel.connect(self._client, self._record, self._route, target)


def wants_upgrade(request: Request) -> bool:
    """Tell whether a request can become another protocol (RFC 9110 7.8).

    One with a body is not understood so: where it ends, the other one would begin. Nor one
    that wants another HTTP: its requests would be seen by no rule and by no log.
    """
    wanted = request.options(b"upgrade")
    return (
        request.length == 0
        and request.minor == 1
        and bool(wanted)
        and not any(one.startswith((b"h2", b"h3", b"http")) for one in wanted)
        and b"upgrade" in request.options(b"connection")
    )


def own_of(writer: Writer) -> tuple[str, int] | None:
    """Return the address and port of our end; None of a Unix socket."""
    name = writer.get_extra_info("sockname")
    return (name[0], name[1]) if isinstance(name, tuple) else None


def _forbid(objection: str) -> None:
    """Refuse what there is an objection to."""
    if objection:
        raise Failed(403, objection, "http_request_denied")


def fields_of(text: bytes) -> list[Field]:
    """Split the field lines of a head that was found to be good."""
    if not text:
        return []
    fields = []
    for line in text.split(b"\r\n"):
        name, _, value = line.partition(b":")
        fields.append((name, value.strip(b" \t")))
    return fields


def _name_of(error: BaseException) -> str:
    if isinstance(error, ConnectionError):
        return "the peer has gone"
    if isinstance(error, CancelledError):
        return "stopped"
    return str(error) or type(error).__name__
