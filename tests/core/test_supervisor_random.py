"""Thousands of random events: the books agree, and so does somebody else's count."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from world import World

from superd.core import commands as cmd
from superd.core.admission import Admission, Verdict
from superd.core.audit import check
from superd.core.supervisor import Supervisor

ACTIONS = {
    World.accept: 24,
    World.send_datagram: 4,
    World.start: 10,
    World.end: 9,
    World.get_ready: 4,
    World.wait: 3,
    World.finish: 2,
    World.end_orphan: 2,
    World.fail_start: 1,
    World.fail_accept: 1,
    World.lie: 2,
    World.name: 4,
    World.sit: 8,
    World.take: 10,
    World.serve: 12,
    World.kill_worker: 2,
    World.read_mark: 3,
    World.break_seat: 1,
    World.choke: 2,
    World.crash: 1,
    World.reload: 1,
}
EVENTS = int(os.environ.get("SUPERD_TEST_EVENTS", "1500"))


def play(seed: int, core: Supervisor, audit=check, events: int = EVENTS) -> World:
    """Play one history and let it settle."""
    rng = random.Random(seed)
    world = World(core, audit)
    world.reload(rng.choice)
    actions, weights = list(ACTIONS), list(ACTIONS.values())
    for _ in range(events):
        rng.choices(actions, weights)[0](world, rng.choice)
    world.settle()
    world.check_rest()
    return world


@pytest.mark.parametrize("number", range(10))
def test_random_histories_keep_every_promise(number):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    world = play(seed, Supervisor())
    world.stop()


def test_a_random_history_can_be_played_again():
    one, other = play(7, Supervisor(), events=200), play(7, Supervisor(), events=200)
    assert one.peers == other.peers


def test_histories_reach_every_fate():
    """A world in which nothing happens would prove nothing."""
    fates: set[str] = set()
    for seed in range(20):
        world = play(seed, Supervisor(), events=300)
        fates |= {peer.fate for peer in world.peers.values()}
    assert fates == {"refused", "closed", "failed", "ended"}


def test_a_stop_in_the_middle_of_a_random_history_comes_to_an_end():
    for seed in range(20):
        rng = random.Random(seed)
        world = World(Supervisor())
        world.reload(rng.choice)
        for _ in range(100):
            rng.choices(list(ACTIONS), list(ACTIONS.values()))[0](world, rng.choice)
        world.stop(at_once=seed % 2 == 1)


class CoreMachine(RuleBasedStateMachine):
    """The same world, driven by hypothesis, which shrinks what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Supervisor())

    @initialize(data=st.data())
    def _first(self, data):
        self.act(World.reload, data)

    def act(self, action, data):
        action(self.world, lambda options: data.draw(st.sampled_from(list(options))))

    @rule(data=st.data(), action=st.sampled_from(list(ACTIONS)))
    def _act(self, action, data):
        self.act(action, data)

    def teardown(self):
        self.world.settle()
        self.world.check_rest()


CoreMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestCoreMachine = CoreMachine.TestCase


# -- negative controls: a bug of this kind is found -----------------------------------


class ForgetsToGive(Supervisor):
    """Forgets to give a slot back when its handler was never started."""

    def _finish(self, conn, now):
        if conn.source is not None and conn.pid is None:
            conn.service.admission.take(conn.source)  # what `give` will undo
        super()._finish(conn, now)


class NeverPollsAgain(Supervisor):
    """Polls nothing of a service that has had a success."""

    def _flush(self):
        return [one for one in super()._flush() if not self._is_lost(one)]

    def _is_lost(self, command):
        if not isinstance(command, cmd.Poll):
            return False
        return self.listeners[command.listener].service.throttle.proven


class BelievesEverybody(Supervisor):
    """Takes a launcher's word about another's connection."""

    def _conn_of(self, launcher, number, _seat=0):
        return self.conns.get(number)


class Generous(Admission):
    """Counts, but limits no source."""

    __slots__ = ()

    def decide(self, source):
        verdict = super().decide(source)
        return Verdict.ADMIT if verdict is Verdict.WAIT else verdict


class IgnoresSources(Supervisor):
    """Admits a source beyond its limit."""

    def _accepted(self, event, now):
        self.listeners[event.listener].service.admission.__class__ = Generous
        super()._accepted(event, now)


class LosesOrphans(Supervisor):
    """Frees a slot when the launcher dies, though the handler still runs."""

    def _launcher_gone(self, event, now):
        launcher = self.launchers.get(event.launcher)
        for number in sorted(launcher.conns if launcher else ()):
            self.conns[number].pid = None
        super()._launcher_gone(event, now)


class NeverFreesASeat(Supervisor):
    """Forgets who has nothing to do."""

    def _free(self, seat, now):
        """Lose it."""


class FreesASeatTwice(Supervisor):
    """Gives two connections to a worker that can serve one."""

    def _free(self, seat, now):
        super()._free(seat, now)
        launcher = self.launchers.get(seat.launcher)
        if launcher is not None and seat in launcher.free:
            launcher.free.append(seat)


class EndsWhatWasKept(Supervisor):
    """Ends everything that a dead worker had been given."""

    def _seat_kept(self, event, now):
        super()._seat_kept(event._replace(conns=()), now)


class EndsWhatCameLater(Supervisor):
    """Ends what was sent after the worker had died, which nobody was asked about."""

    def _seat_kept(self, event, now):
        seat = self.seats.get(event.seat)
        if seat is not None and seat.crash is not None:
            seat.doubtful = frozenset(seat.conns)
        super()._seat_kept(event, now)


class ForgetsToMark(Supervisor):
    """Never asks what a dead worker had begun."""

    def _flush(self):
        return [one for one in super()._flush() if not isinstance(one, cmd.MarkSeat)]


class ForgetsToRefill(Supervisor):
    """Goes on with fewer workers when a seat was lost."""

    def _refill(self, number):
        """Lose it."""


class NeverShrinks(Supervisor):
    """Keeps every worker that was ever wanted."""

    def _shrink(self, number, now):
        """Keep them."""


class LosesWithTheSeat(Supervisor):
    """Keeps the slots of a channel that has ended."""

    def _seat_gone(self, event, now):
        seat = self.seats.get(event.seat)
        if seat is None or not seat.conns:
            super()._seat_gone(event, now)


class WaitsForNames(Supervisor):
    """Retires a launcher and its seats under those who wait for a name."""

    def _seat_nameless(self, launcher, now):
        """Leave them."""


class BelievesEverySeat(Supervisor):
    """Takes a worker's word about another's connection."""

    def _conn_of(self, launcher, number, seat=0):
        conn = self.conns.get(number)
        if conn is not None and conn.seat is not None:
            return conn
        return super()._conn_of(launcher, number, seat)


class IsUnfairAmongLoops(Supervisor):
    """Gives everything to the first."""

    def _pick(self, launcher):
        if launcher.spec.mode == "loop" and launcher.seats:
            return launcher.seats[0]
        return super()._pick(launcher)


BUGS = [
    *(ForgetsToGive, NeverPollsAgain, BelievesEverybody, IgnoresSources, LosesOrphans),
    *(NeverFreesASeat, FreesASeatTwice, EndsWhatWasKept, EndsWhatCameLater),
    *(ForgetsToMark, ForgetsToRefill, NeverShrinks, LosesWithTheSeat, WaitsForNames),
    *(BelievesEverySeat, IsUnfairAmongLoops),
]


def is_caught(bug, audit) -> bool:
    for seed in range(100):
        try:
            play(seed, bug(), audit, events=300)
        except (AssertionError, KeyError, ValueError):
            return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught_by_the_world_alone(bug):
    assert is_caught(bug, lambda _core: None)


def test_the_world_catches_nothing_where_there_is_nothing():
    assert not is_caught(Supervisor, check)
