"""Run a whole pipeline over its hosts, and say how it went.

The rule of the file: all or nothing. Every joint is connected before any program starts,
every program runs before any byte flows; what fails before that leaves nothing running.

Where the first stage is on another host our stdin is copied to it by a stage of our own,
and likewise from the last one to our stdout: so only we connect to hosts, nobody has to
reach us.
"""

from __future__ import annotations

import os
import select
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.exits import SetupError
from superd.handlers.pipeline import auth
from superd.handlers.pipeline.channel import ChannelLost
from superd.handlers.pipeline.failure import (
    BROKEN_PIPE,
    CUT,
    USAGE,
    Failure,
    describe,
)
from superd.handlers.pipeline.frames import FrameError
from superd.handlers.pipeline.zstd import library
from superd.pipe.grammar import parse
from superd.pipe.party import Party
from superd.pipe.report import PERIOD, Progress, say, table
from superd.pipe.signals import Signals

if TYPE_CHECKING:
    import argparse

    from superd.handlers.pipeline.identity import Identity

_STEP: Final = 25.0
_LAST: Final = 3.0
"""Seconds beyond the grace for a stage that was told to stop to say how it ended."""


def run(flags: argparse.Namespace) -> int:
    """Run the pipeline; returns its exit status."""
    pipeline = Pipeline(flags)
    try:
        return pipeline.run()
    finally:
        pipeline.close()


class Pipeline:
    """The stages, from the first to the last."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags
        stages = parse(flags.pipeline, flags.port)
        self._parties = [
            Party(number, stage.argv, stage.host)
            for number, stage in enumerate(stages, 1)
        ]
        self._stages = list(self._parties)
        if stages[0].host is not None:
            self._parties.insert(0, Party(0, [], None))
        if stages[-1].host is not None:
            self._parties.append(Party(len(stages) + 1, [], None))
        self._first_cut: Party | None = None
        self._asked = 0
        self._give_up_at = 0.0
        self._said = 0.0
        self._progress = Progress(wanted=flags.progress, now=monotonic())

    def run(self) -> int:
        """Connect, start, let flow; returns the exit status."""
        if self._flags.compress:
            library()
        self._call()
        with Signals() as signals:
            try:
                self._set_up(signals)
                self._say_all("flow")
                while not all(party.is_done for party in self._parties):
                    self._turn(signals)
            except Failure as failure:
                self._stop_all(str(failure))
                while not all(party.is_done for party in self._parties):
                    self._turn(signals)
                raise
        self._progress.finish(self._moved(), monotonic())
        if self._flags.report:
            rows = [party.row(_short(party)) for party in self._stages]
            os.write(2, table(rows).encode("utf-8", "backslashreplace"))
        return self._judge()

    def close(self) -> None:
        """Let go of all agents."""
        for party in self._parties:
            party.close()

    # -- the start ---------------------------------------------------------------------

    def _call(self) -> None:
        """Reach every agent; our own first, which then have no connection of another."""
        identity = None
        if any(party.host is not None for party in self._parties):
            identity = _identity(self._flags)
            if identity is None:
                self._key()
        for party in sorted(self._parties, key=lambda one: one.host is not None):
            party.call(self._flags, self._key, identity, self._parties)

    def _key(self) -> bytes:
        try:
            return auth.read_key(self._flags.key)
        except SetupError as error:
            text = str(error).removeprefix("option --key: ")
            raise Failure(USAGE, f"--key: {text}") from None

    def _agree(self, before: Party, after: Party) -> None:
        """Decide on a joint: its token, and what it is between two hosts."""
        before.tokens["out"] = after.tokens["in"] = os.urandom(auth.TOKEN)
        if before.host is after.host is None:
            return
        if self._flags.compress and _host_of(before) != _host_of(after):
            before.levels["out"] = after.levels["in"] = self._flags.compress
        if self._flags.tls_cert:
            before.certificates["out"] = after.fingerprint
            after.certificates["in"] = before.fingerprint

    def _set_up(self, signals: Signals) -> None:
        """Connect every joint and start every program."""
        listening: dict[int, list[str]] = {id(party): [] for party in self._parties}
        pairs = list(zip(self._parties, self._parties[1:], strict=False))
        for before, after in pairs:
            self._agree(before, after)
            listener, side = _listener(before, after)
            listening[id(listener)].append(side)
        for party in self._parties:
            party.begin(self._flags, listening[id(party)])
        self._wait_for("ready", signals)
        where: dict[int, dict[str, list[object]]] = {}
        for before, after in pairs:
            listener, side = _listener(before, after)
            other, its_side = (before, "out") if listener is after else (after, "in")
            to = where.setdefault(id(other), {})
            to[its_side] = [_reached(listener), listener.ports[side]]
        for party in self._parties:
            party.lines.say("join", to=where.get(id(party), {}))
        self._wait_for("joined", signals)
        self._say_all("go")
        self._wait_for("running", signals)

    def _wait_for(self, state: str, signals: Signals) -> None:
        until = monotonic() + _STEP
        while not all(party.state == state for party in self._parties):
            self._turn(signals)
            for party in self._parties:
                if party.is_done:
                    raise Failure(party.status, f"{party}: {party.cut}")
            if self._asked:
                raise Failure(128 + self._asked, "interrupted")
            if monotonic() > until:
                late = [str(party) for party in self._parties if party.state != state]
                raise Failure(CUT, f"{', '.join(late)}: not {state} in {_STEP:g} s")

    def _say_all(self, name: str, **fields: object) -> None:
        for party in self._parties:
            if not party.is_done:
                try:
                    party.lines.say(name, **fields)
                except ChannelLost as lost:
                    self._lost(party, str(lost))

    # -- the middle --------------------------------------------------------------------

    def _turn(self, signals: Signals) -> None:
        poller = select.poll()
        poller.register(signals.fd, select.POLLIN)
        running = [party for party in self._parties if not party.is_done]
        for party in running:
            party.lines.watch(poller)
        pause = min(PERIOD, self._flags.dead / 4)
        ready = dict(poller.poll(pause * 1000))
        for number in signals.take():
            self._signalled(number)
        for party in running:
            try:
                party.lines.step(ready)
                for message in party.lines.take():
                    self._show(party.hear(message))
            except ChannelLost as lost:
                self._lost(party, str(lost))
            except (
                ArithmeticError,
                FrameError,
                LookupError,
                TypeError,
                ValueError,
            ) as error:
                self._lost(party, f"it breaks the protocol: {error}")
            if party.is_done and party.cut and self._first_cut is None:
                self._first_cut = party
        self._look_around(monotonic())

    def _look_around(self, now: float) -> None:
        """Do what no descriptor announces."""
        for party in self._parties:
            if not party.is_done and now - party.lines.heard > self._flags.dead:
                self._lost(party, f"nothing was heard of it for {self._flags.dead:g} s")
        if self._give_up_at and now > self._give_up_at:
            for party in self._parties:
                if not party.is_done:
                    self._lost(party, "it did not stop")
        if now - self._said > min(PERIOD, self._flags.dead / 4):
            self._said = now
            self._say_all("alive")
            self._progress.update(self._moved(), now)

    def _lost(self, party: Party, why: str) -> None:
        """Count a host as lost: a link that is cut tells nobody, so we tell the rest."""
        if party.is_done:
            return
        party.lose(why)
        if self._first_cut is None:
            self._first_cut = party
        self._stop_all(f"{party} is lost")

    def _stop_all(self, why: str) -> None:
        if not self._give_up_at:
            self._give_up_at = monotonic() + self._flags.grace + _LAST
            self._say_all("stop", why=why)

    def _signalled(self, number: int) -> None:
        """Hand a signal to every stage; the second one does not ask."""
        if self._asked:
            self._stop_all("interrupted")
            return
        self._asked = number
        self._say_all("signal", number=number)

    def _show(self, lines: bytes) -> None:
        if lines:
            os.write(2, lines)

    def _moved(self) -> int:
        """The bytes that came to the end of the pipeline, as far as we know."""
        last = self._parties[-1].counts
        return last[0] or last[1]

    # -- the end -----------------------------------------------------------------------

    def _judge(self) -> int:
        """Return the exit status, and say what was cut short."""
        if self._asked:
            return 128 + self._asked
        cut = self._first_cut
        if cut is not None:
            # News of it may have come first from a stage that only saw it.
            own = [one for one in self._parties if one.cut and not one.is_second_hand]
            cut = cut if cut in own or not own else own[0]
            say(f"{cut}: {cut.cut}; what came of it is not the whole")
            return cut.status or CUT
        if self._flags.pipefail:
            return next((one.status for one in self._stages if _failed(one)), 0)
        if not self._parties[-1].argv and self._parties[-1].status:
            return self._parties[-1].status
        return self._stages[-1].status


def _failed(party: Party) -> bool:
    """Whether a status is a failure: SIGPIPE of who was told to stop is none."""
    return bool(party.status) and not (party.stopped and party.status == BROKEN_PIPE)


def _listener(before: Party, after: Party) -> tuple[Party, str]:
    """Which of two listens, and on which side of it: never we for another host."""
    if after.host is None and before.host is not None:
        return before, "out"
    return after, "in"


def _host_of(party: Party) -> str:
    return party.host.host if party.host is not None else ""


def _identity(flags: argparse.Namespace) -> Identity | None:
    """Load what we show by TLS, if that is wanted."""
    if not flags.tls_cert:
        return None
    from superd.handlers.pipeline.identity import (  # noqa: PLC0415
        Identity,
        IdentityError,
    )

    try:
        return Identity(flags.tls_cert, flags.tls_key, flags.tls_ca)
    except IdentityError as error:
        flag = {"certificate": "--tls-cert", "key": "--tls-key", "ca": "--tls-ca"}
        raise Failure(USAGE, f"{flag[error.field]}: {error}") from None


def _reached(party: Party) -> str:
    """The address by which we have reached a host; the others reach it by that."""
    if party.host is None:
        return "127.0.0.1"
    return str(party.lines.sock.getpeername()[0])


def _short(party: Party) -> str:
    return describe(party.status).removeprefix("exit ").removeprefix("killed by ")
