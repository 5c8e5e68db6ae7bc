"""The states of a service, asked of the table alone."""

from __future__ import annotations

import pytest

from superd.core.lifecycle import TRANSITIONS, IllegalStepError, State, Step, step


def reach(start: State) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        for state in TRANSITIONS[todo.pop()].values():
            if state not in found:
                found.add(state)
                todo.append(state)
    return found


def test_every_state_has_a_row():
    assert set(TRANSITIONS) == set(State)


def test_every_state_is_reached_from_the_first():
    assert reach(State.LISTENING) == set(State)


def test_every_step_is_taken_somewhere():
    assert {by for row in TRANSITIONS.values() for by in row} == set(Step)


@pytest.mark.parametrize("state", [one for one in State if one is not State.STOPPED])
def test_every_state_can_end(state):
    assert State.STOPPED in reach(state)


@pytest.mark.parametrize("state", [State.FULL, State.THROTTLED])
def test_no_state_but_draining_is_for_ever(state):
    assert State.LISTENING in reach(state)


def test_who_drains_never_listens_again():
    assert reach(State.DRAINING) == {State.DRAINING, State.STOPPED}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("by", Step)
def test_a_step_is_in_the_table_or_an_error_of_ours(state, by):
    if by in TRANSITIONS[state]:
        assert step(state, by) is TRANSITIONS[state][by]
        return
    with pytest.raises(IllegalStepError, match=f"{state.value}: no step {by.name}"):
        step(state, by)
