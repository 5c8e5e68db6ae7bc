"""Hold the states of a service as a literal table; illegal steps are errors.

The table is the check: there is no ladder of ifs. The diagram in superd/README.md is
drawn from it.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a service is between its first listener and its last handler."""

    LISTENING = "listening"
    FULL = "full"
    THROTTLED = "throttled"
    DRAINING = "draining"
    STOPPED = "stopped"


class Step(Enum):
    """What moves a service from one state to the next."""

    FULL = "no slot is free"
    ROOM = "a slot is free again"
    THROTTLE = "its handlers fail"
    RELEASE = "the throttle has ended"
    DRAIN = "removed, or superd stops"
    GONE = "the last handler has ended"


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.LISTENING: {
        Step.FULL: State.FULL,
        Step.THROTTLE: State.THROTTLED,
        Step.DRAIN: State.DRAINING,
    },
    State.FULL: {
        Step.ROOM: State.LISTENING,
        Step.THROTTLE: State.THROTTLED,
        Step.DRAIN: State.DRAINING,
    },
    State.THROTTLED: {
        Step.RELEASE: State.LISTENING,
        Step.THROTTLE: State.THROTTLED,
        Step.DRAIN: State.DRAINING,
    },
    State.DRAINING: {Step.GONE: State.STOPPED},
    State.STOPPED: {},
}


class IllegalStepError(AssertionError):
    """A step that the state does not allow: we are wrong, not the world."""


def step(state: State, by: Step) -> State:
    """Take one step of the table."""
    try:
        return TRANSITIONS[state][by]
    except KeyError:
        raise IllegalStepError(f"{state.value}: no step {by.name}") from None
