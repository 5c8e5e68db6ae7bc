"""What a reload adds, removes, renews and adjusts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from playbook import service

from superd.core.diff import Diff, diff

ECHO = service("echo")
WEB = service("web")


def test_nothing_changed_is_nothing_to_do():
    assert diff([ECHO, WEB], [ECHO, WEB]) == Diff((), (), (), ())


def test_the_order_of_services_is_no_change():
    assert diff([ECHO, WEB], [WEB, ECHO]) == Diff((), (), (), ())


def test_lines_that_moved_in_the_file_are_no_change():
    moved = ECHO._replace(place="elsewhere.yaml:99:1")
    assert diff([ECHO], [moved]) == Diff((), (), (), ())


def test_new_and_old_names_are_added_and_removed():
    assert diff([ECHO], [WEB]) == Diff(("web",), ("echo",), (), ())


def test_what_runs_is_renewed():
    other = service("echo", user="somebody")
    assert diff([ECHO], [other]).renewed == ("echo",)


def test_limits_timeouts_warmth_and_listeners_are_adjusted():
    for change in (
        {"connections": 3},
        {"stop": 1.0},
        {"launcher_idle": 1.0},
        {"warm": True},
        {"keys": ("tcp elsewhere",)},
        {"message": "full\n"},
    ):
        changes = diff([ECHO], [service("echo", **change)])
        assert changes == Diff((), (), (), ("echo",)), change


def test_a_service_that_is_renewed_is_not_adjusted_as_well():
    other = service("echo", user="somebody", connections=3)
    assert diff([ECHO], [other]) == Diff((), (), ("echo",), ())


names = st.lists(st.sampled_from("abcdef"), unique=True)


def generation(draw_names, seeds):
    return [
        service(name, connections=1 + seed % 3, user=str(seed % 2))
        for name, seed in zip(draw_names, seeds, strict=False)
    ]


seeds = st.lists(st.integers(0, 5), min_size=6, max_size=6)


@given(names, seeds, names, seeds)
def test_every_name_is_in_one_list_or_unchanged(old, old_seeds, new, new_seeds):
    before, after = generation(old, old_seeds), generation(new, new_seeds)
    changes = diff(before, after)

    listed = [name for names in changes for name in names]
    assert len(listed) == len(set(listed))
    same = {spec.name for spec in after if spec in before}
    assert set(listed) | same == set(old) | set(new)
    assert not set(listed) & same
