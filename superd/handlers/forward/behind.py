"""Validate a stored answer with nobody waiting for it (RFC 5861 3).

The rule of the file: what fails leaves all as it is; the next request will find the answer
stale, and be told what is wrong.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from superd.handlers.cache import policy, validation
from superd.handlers.forward import fields as fieldwork
from superd.handlers.forward.asking import Asking, Cut, Question
from superd.handlers.forward.pages import Failed
from superd.handlers.forward.visit import ERRORS, NOT_MODIFIED

if TYPE_CHECKING:
    from superd.handlers.cache.claims import Claim
    from superd.handlers.forward.desk import Desk
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.passing import Passing
    from superd.handlers.forward.stored import Found

_LONGEST: Final = 300.0
"""Seconds for all of it: no peer is there whose leaving would end it."""


class Behind:
    """A validation that nobody waits for (RFC 5861 3)."""

    def __init__(
        self, desk: Desk, passing: Passing, found: Found, fields: list[Field]
    ) -> None:
        self._desk = desk
        self._found = found
        asked = validation.conditions(found.facts)
        plain = fieldwork.without(fields, validation.REPLACED)
        self._fields = plain
        self._route = passing.route
        self._question = Question(
            b"GET", passing.question.target, fieldwork.lines_of([*plain, *asked])
        )

    async def run(self, claim: Claim) -> None:
        """Ask, and keep what is answered; what fails leaves all as it is."""
        try:
            with suppress(Failed, Cut, OSError):
                async with asyncio.timeout(_LONGEST):
                    await self._run()
        finally:
            claim.release()

    async def _run(self) -> None:
        requested = time.time()
        asking = Asking(self._route, self._question)
        reply = await asking.ask()
        received = time.time()
        found, desk = self._found, self._desk
        if reply.status == NOT_MODIFIED:
            await asking.end(reply)
            desk.learn(found, reply.fields, self._fields, requested, received)
            return
        if not desk.may_store(
            b"GET", self._fields, reply.status, reply.fields, now=received
        ):
            await asking.abandon()
            if reply.status not in ERRORS:
                desk.forget(found)
            return
        answer = policy.to_store(
            found.facts.stored.url,
            self._fields,
            reply.status,
            reply.reason,
            desk.told_to_all(reply.fields),
            requested=requested,
            received=received,
        )
        with desk.draft(found.variant.key) as draft:
            try:
                while data := await asking.read():
                    draft.write(data)
                    if not draft.alive:
                        # What cannot be kept is read for nobody.
                        await asking.abandon()
                        return
            except BaseException:
                await asking.abandon()
                raise
            await asking.end(reply)
            desk.keep(draft, answer, self._fields)
