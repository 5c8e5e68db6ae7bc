"""Of a test that is played in several modes one is in the quick run, and none is lost."""

from __future__ import annotations

from conftest import spread

NAMES = [
    "tests/a.py::test_one[loop]",
    "tests/a.py::test_one[process]",
    "tests/a.py::test_one[pool]",
    "tests/a.py::test_two[loop-x]",
    "tests/a.py::test_two[loop-y]",
    "tests/a.py::test_two[process-x]",
    "tests/a.py::test_three",
    "tests/a.py::test_four[looping]",
    "tests/a.py::test_five[httpd/get.in-loop]",
    "tests/a.py::test_five[httpd/get.in-process]",
]


def test_one_mode_of_each_test_is_left():
    left = [name for at, name in enumerate(NAMES) if at not in spread(NAMES)]
    kinds = [name.partition("[")[0].rpartition("_")[2] for name in left]
    assert sorted(kinds) == ["five", "four", "one", "three", "two", "two"]
    assert {name for name in left if "-y" in name} == {NAMES[4]}


def test_which_one_is_left_depends_on_nothing_else():
    alone = spread(NAMES[:3])
    assert {NAMES[at] for at in spread(NAMES) if at < 3} == {NAMES[at] for at in alone}
