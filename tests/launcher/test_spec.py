"""The launcher's part of the plan: read whole, from a descriptor that stays open."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("size", [0, 1 << 18])
def test_a_spec_of_any_size_is_read_whole(launcher, size):
    # A long environment: more than any one read of a pipe would give.
    environment = {f"NAME{number}": "x" * 1000 for number in range(size // 1000)}
    it = launcher(exec=["/usr/bin/env"], environment={"A": "b", **environment})
    lines = it.talk().decode().splitlines()
    assert "A=b" in lines
    for name, value in environment.items():
        assert f"{name}={value}" in lines


def test_limits_that_are_not_configured_are_left_alone(launcher):
    it = launcher(exec=["/bin/sh", "-c", "ulimit -c"], rlimits={"core": None})
    other = launcher(exec=["/bin/sh", "-c", "ulimit -c"], rlimits={})
    assert it.talk() == other.talk()


def test_a_spec_of_another_form_is_one_refusal(launcher):
    it = launcher(ready=False, rlimits=None)
    assert it.wait("^refuse bug ")
    assert it.wait_end() == 70


def test_the_spec_is_closed_before_the_handler_starts(launcher):
    it = launcher()
    assert not [name for name in it.fds().values() if "memfd" in name]
