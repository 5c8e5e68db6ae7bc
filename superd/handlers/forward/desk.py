"""Answer from the cache what it may answer, and let it learn from everything else.

The rule of the file: what is kept is what the first peer was sent, whole; and a request
that others wait for is never waited for longer than the operator allows.
"""

from __future__ import annotations

import asyncio
import time
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers import stdio
from superd.handlers.cache import policy, validation, verdict
from superd.handlers.cache import record as records
from superd.handlers.cache.claims import Claims
from superd.handlers.cache.freshness import is_explicit
from superd.handlers.cache.store import Store
from superd.handlers.cache.verdict import Verdict
from superd.handlers.forward import apart, stored
from superd.handlers.forward import fields as fieldwork
from superd.handlers.forward.asking import Asking
from superd.handlers.forward.behind import Behind
from superd.handlers.forward.pages import NO_ERROR, Failed
from superd.handlers.forward.stored import Found, status_line
from superd.handlers.forward.visit import Visit

if TYPE_CHECKING:
    from superd.handlers.cache.claims import Claim
    from superd.handlers.cache.drafts import Draft
    from superd.handlers.cache.keyfile import Variant
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.passing import Passing
    from superd.handlers.options import Options

_SILENCE: Final = 60.0
"""Seconds."""
_HARMLESS: Final = frozenset({"", "too large", "dropped"})
"""Why a draft died, where that says nothing of the folder."""
_REMEMBERED: Final = 4096
"""Keys that are remembered because their answers could not be kept, or were changed."""
_BEHIND: Final = 64
"""Validations that run at the same time with nobody waiting for them."""
_FAREWELL: Final = 5.0
"""Seconds that a process stays for these when its peer has gone: a slow host would keep
all workers of a pool."""


def open_desk(cache: Options) -> Desk:
    """Open the cache of these options. Raises SetupError."""
    store = Store(cache["folder"], cache["size"], cache["largest"])
    claims = Claims(store.folder)
    return Desk(store, claims, cache["collapse"], cookies=cache["cookies"])


class Desk:
    """The cache, as requests find it."""

    def __init__(
        self, store: Store, claims: Claims, patience: float, *, cookies: bool = False
    ) -> None:
        """`patience`: seconds that a request waits for the answer to one like it.

        `cookies`: those of a stored answer are given to everybody who gets it.
        """
        self._cookies = cookies
        self._store = store
        self._claims = claims
        self._patience = patience
        self._unstorable: dict[bytes, None] = {}
        self._invalid: dict[bytes, float] = {}
        """When keys were invalidated last, by a request of this process."""
        self._behind: set[asyncio.Task[None]] = set()
        self._silent = 0.0
        """Until when nothing is said of a folder that takes nothing."""
        self._sweeping: asyncio.Future[Any] | None = None

    async def serve(self, passing: Passing, fields: list[Field], *, keep: bool) -> bool:
        """Answer a request; returns whether a next one may come.

        `fields` are those that the host would be sent.
        """
        request, question = passing.request, passing.question
        key = policy.key_of(question.method, question.target.url)
        if (
            not key
            or request.length != 0
            or question.target.path == b"*"
            or stored.has_precondition(request)
        ):
            if key and verdict.wants_only_cached(fields):
                problem = "the cache cannot answer it, and is to do so alone"
                raise Failed(504, problem, NO_ERROR)
            return await self._pass_by(passing, keep=keep)
        now = time.time()
        found = self.find(key, fields)
        if found is not None:
            judged = verdict.judge(found.facts, fields, now)
            if judged is not Verdict.REVALIDATE and await self._hit(
                passing, found, fields, now, keep=keep, judged=judged
            ):
                return keep
        if verdict.wants_only_cached(fields):
            problem = "it is not in the cache, and is wanted from there only"
            raise Failed(504, problem, NO_ERROR)
        return await Visit(self, passing, fields, key, keep=keep).run()

    async def _pass_by(self, passing: Passing, *, keep: bool) -> bool:
        """Pass a request on that no cache can answer; it may end what is stored (4.4)."""
        question = passing.question
        asking = Asking(passing.route, question, passing.client)
        reply = await passing.ask(asking)
        for key in policy.invalidated(
            question.method, reply.status, question.target.url, reply.fields
        ):
            self.invalidate(key)
        return await passing.answer(asking, reply, keep=keep)

    async def _hit(
        self,
        passing: Passing,
        found: Found,
        fields: list[Field],
        now: float,
        *,
        keep: bool,
        judged: Verdict,
    ) -> bool:
        """Answer from the store; False where the body is gone."""
        name = passing.route.plan.identity.name
        fresh = judged is Verdict.FRESH
        passing.record.cache = "hit" if fresh else "stale"
        told = status_line(name, b"hit" if fresh else b"hit; detail=stale")
        good = await stored.serve(passing, found, fields, now, keep=keep, told=told)
        if judged is Verdict.STALE_WHILE_REVALIDATE and good:
            self._validate_behind(passing, found, fields)
        return good

    # -- the store ----------------------------------------------------------------------

    def find(self, key: bytes, fields: list[Field]) -> Found | None:
        """Return what is stored for a request like this."""
        variants = self._store.variants(key)
        if not variants:
            return None
        candidates = {}
        for variant in variants:
            made = stored.ready(variant)
            if made is None:
                self._store.remove_variant(variant)
            else:
                candidates[id(made.facts)] = Found(variant, made.facts)
        chosen = policy.choose([one.facts for one in candidates.values()], fields)
        return None if chosen is None else candidates[id(chosen)]

    def invalidate(self, key: bytes) -> None:
        """Remove what is stored, and keep nothing that was asked for before now (4.4)."""
        self._store.remove(key)
        self._invalid.pop(key, None)
        while len(self._invalid) >= _REMEMBERED:
            del self._invalid[next(iter(self._invalid))]
        self._invalid[key] = time.time()

    @property
    def largest(self) -> int:
        """Bytes of the largest body that is kept."""
        return self._store.largest

    def may_store(
        self,
        method: bytes,
        request_fields: list[Field],
        status: int,
        reply_fields: list[Field],
        *,
        now: float,
    ) -> bool:
        """Tell whether an answer may be kept, and for how long is told or can be guessed.

        Without its cookie one would look as if it were the same for everybody: where
        nothing says how long it holds, that is no ground to guess on.
        """
        if (
            not self._cookies
            and fieldwork.has(reply_fields, b"set-cookie")
            and not is_explicit(reply_fields)
        ):
            return False
        return policy.may_store(method, request_fields, status, reply_fields, now=now)

    def told_to_all(self, fields: list[Field]) -> list[Field]:
        """Return those fields of an answer that are kept for others (RFC 9111 7.3)."""
        return fields if self._cookies else validation.for_all(fields)

    def _tell(self, why: str) -> None:
        """Say in the log that nothing can be kept, once a minute."""
        if monotonic() >= self._silent:
            self._silent = monotonic() + _SILENCE
            stdio.log(f"proxy: cache {self._store.folder}: {why}: answers are not kept")

    def draft(self, key: bytes) -> Draft:
        """Begin to keep a body."""
        return self._store.begin(key)

    def keep(self, draft: Draft, answer: records.Stored, fields: list[Field]) -> bool:
        """Keep an answer in place of those for requests like this; False if not."""

        def is_replaced(variant: Variant) -> bool:
            made = stored.ready(variant)
            return made is None or policy.selects(made.facts, fields)

        key = policy.key_of(b"GET", answer.url)
        if answer.requested <= self._invalid.get(key, 0.0):
            return False  # it may be of the state before the change
        meta = records.to_bytes(answer._replace(size=draft.size))
        kept = draft.keep(meta, is_replaced)
        if kept is None and draft.why not in _HARMLESS:
            self._tell(draft.why)
        if kept is not None:
            self._note(kept)
        self._make_room()
        return kept is not None

    def renew(self, found: Found, fresh: records.Stored) -> Found | None:
        """Note what a validation has said; None where the body is gone meanwhile."""
        if not policy.may_keep(fresh):
            self._store.remove_variant(found.variant)
            made = stored.ready(found.variant.with_meta(records.to_bytes(fresh)))
            return None if made is None else Found(found.variant, made.facts)
        variant = self._store.renew(found.variant, records.to_bytes(fresh))
        made = None if variant is None else stored.ready(variant)
        return None if variant is None or made is None else Found(variant, made.facts)

    def learn(
        self,
        found: Found,
        reply_fields: list[Field],
        fields: list[Field],
        requested: float,
        received: float,
        *,
        head: bool = False,
    ) -> None:
        """Renew an answer by what a 304, or a `head`, says of it; or forget it."""
        fresh = validation.freshened(
            found.facts.stored,
            self.told_to_all(reply_fields),
            fields,
            requested,
            received,
            head=head,
        )
        if fresh is None:
            self.forget(found)
        else:
            self.renew(found, fresh)

    def forget(self, found: Found) -> None:
        """Remove an answer that is no longer true."""
        self._store.remove_variant(found.variant)

    def _note(self, kept: Variant) -> None:
        """Remember whether it is worth waiting for the answer to one like it."""
        made = stored.ready(kept)
        if made is None or made.facts.validated or made.facts.lifetime <= 0:
            self.note_unstorable(kept.key)
        else:
            self._unstorable.pop(kept.key, None)

    def note_unstorable(self, key: bytes) -> None:
        """Remember that nobody need wait for another's answer here."""
        while len(self._unstorable) >= _REMEMBERED:
            del self._unstorable[next(iter(self._unstorable))]
        self._unstorable[key] = None

    def _make_room(self) -> None:
        """Have a thread remove what was not used, if there is too much."""
        if self._store.due and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = apart.begin(self._store.sweep)

    # -- those who ask the same ----------------------------------------------------------

    async def turn(self, key: bytes, *, plain: bool) -> Claim | None:
        """Return the right to ask for it; None where another has asked, and was waited for.

        Who does not ask plainly claims nothing: a part is of no use to the others.
        Without a descriptor to claim with everybody asks for himself.
        """
        if not self._patience or key in self._unstorable:
            return None
        try:
            claim = self._claims.claim(key) if plain else None
            if claim is None:
                await self._claims.wait_for(key, monotonic() + self._patience)
        except OSError:
            return None
        return claim

    # -- with nobody waiting --------------------------------------------------------------

    def _validate_behind(
        self, passing: Passing, found: Found, fields: list[Field]
    ) -> None:
        if len(self._behind) >= _BEHIND:
            return
        try:
            claim = self._claims.claim(found.variant.key)
        except OSError:
            return
        if claim is None:
            return  # somebody does so already
        again = self.find(found.variant.key, fields)
        if again is None or again.facts.stored.received != found.facts.stored.received:
            claim.release()  # somebody has done so since we looked
            return
        behind = Behind(self, passing, found, fields)
        task = asyncio.get_running_loop().create_task(behind.run(claim))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def finish(self) -> None:
        """Wait for what runs with nobody waiting: the process is about to end."""
        if self._behind:
            late = (await asyncio.wait(set(self._behind), timeout=_FAREWELL))[1]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._sweeping is not None:
            await self._sweeping
        elif self._store.due:
            # All of it: half of one would be lost with this process.
            self._store.sweep()
