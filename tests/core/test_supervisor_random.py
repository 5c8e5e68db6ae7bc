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
    World.accept: 12,
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
    World.choke: 2,
    World.crash: 1,
    World.reload: 1,
}
EVENTS = int(os.environ.get("SUPERD_TEST_EVENTS", "600"))


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
        world.stop()


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

    def _conn_of(self, launcher, number):
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


BUGS = [ForgetsToGive, NeverPollsAgain, BelievesEverybody, IgnoresSources, LosesOrphans]


def is_caught(bug, audit) -> bool:
    for seed in range(20):
        try:
            play(seed, bug(), audit, events=300)
        except (AssertionError, KeyError):
            return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught_by_the_world_alone(bug):
    assert is_caught(bug, lambda _core: None)


def test_the_world_catches_nothing_where_there_is_nothing():
    assert not is_caught(Supervisor, check)
