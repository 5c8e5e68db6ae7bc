"""Carry out a request that the cache cannot answer, or not without asking.

The rule of the file: what is kept is what the peer was sent, whole.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from superd.handlers.cache import policy, validation, verdict
from superd.handlers.cache.facts import exact_age_of
from superd.handlers.cache.verdict import Failure, Verdict
from superd.handlers.forward import fields as fieldwork
from superd.handlers.forward import stored
from superd.handlers.forward.asking import Asking, Question
from superd.handlers.forward.pages import Failed
from superd.handlers.forward.stored import Found, status_line

if TYPE_CHECKING:
    from superd.handlers.cache.claims import Claim
    from superd.handlers.forward.desk import Desk
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.passing import Passing
    from superd.handlers.forward.reply import Reply

ERRORS: Final = frozenset({500, 502, 503, 504})
"""Statuses for which a stale answer may stand in (RFC 5861 4)."""
NOT_MODIFIED: Final = 304
_PARTIAL: Final = frozenset({206, 304})
"""Statuses that say of the answer to a plain request only that there is one."""


class Visit:
    """A request that the cache cannot answer, or not without asking."""

    def __init__(
        self,
        desk: Desk,
        passing: Passing,
        fields: list[Field],
        key: bytes,
        *,
        keep: bool,
    ) -> None:
        self._desk = desk
        self._passing = passing
        self._fields = fields
        self._key = key
        self._keep = keep
        self._requested = 0.0

    async def run(self) -> bool:
        """Ask the host, or wait for who does; returns whether a next one may come."""
        desk, passing = self._desk, self._passing
        plain = stored.asks_plainly(passing.request)
        claim = await desk.turn(self._key, plain=plain)
        try:
            # Another may have brought it, while we waited or just before.
            found = desk.find(self._key, self._fields)
            if found is not None:
                now = time.time()
                judged = verdict.judge(found.facts, self._fields, now)
                if judged is Verdict.FRESH and await self._serve(found, now, "hit"):
                    return self._keep
                return await self._validate(found, claim)
            passing.record.cache = "miss"
            return await self._fetch(self._question(None), claim)
        finally:
            if claim is not None:
                claim.release()

    def _question(self, found: Found | None) -> Question:
        """Return what the host is asked: as the peer does, or whether it still holds."""
        fields = self._fields
        if found is not None:
            # Even where there are none: the 304 to one of the peer says nothing of this.
            asked = validation.conditions(found.facts)
            fields = [*fieldwork.without(fields, validation.REPLACED), *asked]
        return self._passing.question._replace(lines=fieldwork.lines_of(fields))

    async def _ask(self, question: Question) -> tuple[Asking, Reply]:
        passing = self._passing
        self._requested = time.time()
        asking = Asking(passing.route, question, passing.client)
        return asking, await passing.ask(asking)

    async def _validate(self, found: Found, claim: Claim | None) -> bool:
        passing, facts = self._passing, found.facts
        try:
            asking, reply = await self._ask(self._question(found))
        except Failed as failed:
            if await self._stale(found, Failure.UNREACHABLE):
                return self._keep
            if failed.status == 502 and (facts.strict or facts.validated):  # noqa: PLR2004
                # RFC 9111 5.2.2.2: this one may not be given without asking.
                raise Failed(504, str(failed), failed.error) from None
            raise
        if reply.status == NOT_MODIFIED:
            await asking.end(reply)
            return await self._renewed(found, reply, claim)
        if reply.status in ERRORS and self._may_stale(found, Failure.ERROR):
            await asking.abandon()
            if await self._stale(found, Failure.ERROR):
                return self._keep
            asking, reply = await self._ask(self._question(None))
        passing.record.cache = "miss"
        return await self._pass_on(asking, reply, claim, found)

    async def _renewed(self, found: Found, reply: Reply, claim: Claim | None) -> bool:
        """Answer from what a 304 was about."""
        now = time.time()
        told = self._desk.told_to_all(reply.fields)
        # What is not told to all is still for who has asked.
        cookies = [one for one in reply.fields if one not in told]
        fresh = validation.freshened(
            found.facts.stored,
            told,
            self._fields,
            self._requested,
            now,
        )
        if fresh is not None and fieldwork.has(self._fields, b"authorization"):
            # It holds; what else was said is for this peer (RFC 9111 3.5).
            renewed: Found | None = found
        else:
            renewed = None if fresh is None else self._desk.renew(found, fresh)
        if renewed is not None and await self._serve(
            renewed, now, "revalidated", fieldwork.lines_of(cookies)
        ):
            return self._keep
        # About another state, or the body has gone: all of it is needed.
        fields = fieldwork.without(self._fields, validation.REPLACED)
        question = self._passing.question._replace(lines=fieldwork.lines_of(fields))
        self._passing.record.cache = "miss"
        return await self._fetch(question, claim)

    def _may_stale(self, found: Found, failure: Failure) -> bool:
        now = time.time()
        return verdict.may_serve_stale(found.facts, self._fields, now, failure=failure)

    async def _stale(self, found: Found, failure: Failure) -> bool:
        return self._may_stale(found, failure) and await self._serve(
            found, time.time(), "stale"
        )

    async def _serve(
        self, found: Found, now: float, how: str, more: bytes = b""
    ) -> bool:
        """Answer from the store; `more` lines are for this peer and not kept."""
        passing = self._passing
        passing.record.cache = how
        name = passing.route.plan.identity.name
        what = {
            "hit": b"hit; collapsed",
            "stale": b"hit; detail=stale",
            "revalidated": b"fwd=stale; fwd-status=304",
        }[how]
        told = more + status_line(name, what)
        return await stored.serve(
            passing, found, self._fields, now, keep=self._keep, told=told
        )

    async def _fetch(self, question: Question, claim: Claim | None) -> bool:
        asking, reply = await self._ask(question)
        return await self._pass_on(asking, reply, claim, None)

    async def _pass_on(
        self, asking: Asking, reply: Reply, claim: Claim | None, found: Found | None
    ) -> bool:
        """Pass an answer back, and keep it if it may be kept."""
        passing, desk = self._passing, self._desk
        received = time.time()
        method = passing.question.method
        size = asking.body.length
        if not desk.may_store(
            method, self._fields, reply.status, reply.fields, now=received
        ) or (size is not None and size > desk.largest):
            if claim is not None:
                claim.release()
            if method == b"GET" and reply.status not in _PARTIAL:
                desk.note_unstorable(self._key)
            self._learn(reply, found, received)
            line = status_line(passing.route.plan.identity.name, self._why(found))
            return await passing.answer(asking, reply, keep=self._keep, told=line)
        answer = policy.to_store(
            passing.question.target.url,
            self._fields,
            reply.status,
            reply.reason,
            desk.told_to_all(reply.fields),
            requested=self._requested,
            received=received,
        )
        told = self._why(found) + b"; stored"
        line = status_line(passing.route.plan.identity.name, told)
        with desk.draft(self._key) as draft:

            def copy(data: bytes) -> None:
                draft.write(data)
                if not draft.alive and claim is not None:
                    claim.release()  # too large, or no room: nothing to wait for

            def finish() -> None:
                if not desk.keep(draft, answer, self._fields) and found is not None:
                    desk.forget(found)
                if claim is not None:
                    claim.release()

            return await passing.answer(
                asking,
                reply,
                keep=self._keep,
                told=line,
                copy=copy,
                finish=finish,
            )

    def _why(self, found: Found | None) -> bytes:
        """Say why the host was asked (RFC 9211 2.2)."""
        if found is None:
            return b"fwd=miss"
        fresh = exact_age_of(found.facts, time.time()) < found.facts.lifetime
        return b"fwd=request" if fresh else b"fwd=stale"

    def _learn(self, reply: Reply, found: Found | None, received: float) -> None:
        """Take from an answer that is not kept what it says of one that is."""
        desk = self._desk
        if fieldwork.has(self._fields, b"authorization"):
            return
        if self._passing.question.method == b"HEAD" and reply.status == 200:  # noqa: PLR2004
            known = found or desk.find(self._key, self._fields)
            if known is not None:
                desk.learn(
                    known,
                    reply.fields,
                    self._fields,
                    self._requested,
                    received,
                    head=True,
                )
        elif found is not None and reply.status < 500:  # noqa: PLR2004
            # The host has another answer now, which is not to be kept.
            desk.forget(found)
