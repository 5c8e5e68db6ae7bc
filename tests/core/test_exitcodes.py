"""What the end of a handler means."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.core import exitcodes
from superd.core.exitcodes import describe, effect_of
from superd.handlers import exits

EFFECTS = {"success", "plain", "peer", "throttle"}


@pytest.mark.parametrize(
    ("status", "effect"),
    [
        (0, "success"),
        (1, "plain"),
        (2, "plain"),
        (100, "throttle"),
        (101, "plain"),
        (110, "peer"),
        (111, "plain"),
        (112, "peer"),
        (255, "plain"),
    ],
)
def test_a_status_has_its_effect(status, effect):
    assert effect_of(0, status) == effect


def test_a_peer_that_hangs_up_is_no_failure_of_the_handler():
    """A program killed by SIGPIPE wrote to somebody who had gone."""
    assert effect_of(signal.SIGPIPE, 0) == "peer"


def test_a_handler_that_superd_or_its_operator_ended_has_not_failed():
    """Slow peers of a new service, ended by timeouts.lifetime, would throttle it."""
    assert effect_of(signal.SIGTERM, 0) == "peer"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_handler_that_crashes_has_failed(number):
    assert effect_of(number, 0) == "plain"


def test_the_numbers_of_signals_are_those_of_this_system():
    assert (exitcodes.SIGPIPE, exitcodes.SIGTERM) == (signal.SIGPIPE, signal.SIGTERM)


@given(st.integers(0, 64), st.integers(0, 255))
def test_every_end_has_an_effect_and_one_word(number, status):
    assert effect_of(number, status) in EFFECTS
    assert len(describe(number, status).split()) == 1


def test_an_end_is_spelt_with_its_name():
    assert describe(0, 0) == "exit:0"
    assert describe(0, 7) == "exit:7"
    assert describe(0, 100) == "exit:100(setup)"
    assert describe(11, 0) == "signal:11"


def test_a_table_row_is_there_once():
    for column in ("status", "name", "sentence"):
        values = [getattr(row, column) for row in exitcodes.TABLE]
        assert len(set(values)) == len(values)
    assert {row.effect for row in exitcodes.TABLE} <= EFFECTS


def test_handlers_and_master_mean_the_same_numbers():
    """The handlers import nothing of the core: two files, one language."""
    theirs = {
        name: value
        for name, value in vars(exits).items()
        if name.isupper() and isinstance(value, int) and not isinstance(value, bool)
    }
    theirs["DONE"] = theirs.pop("OK")
    ours = {row.name.upper(): row.status for row in exitcodes.TABLE}
    assert theirs == ours
