"""The slots of one service."""

from __future__ import annotations

import pytest

from superd.core.admission import Admission, Reason, Verdict
from superd.core.spec import Limits

QUEUE = Limits(2, None, 32, 64, "queue", "")
A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def admission(**given) -> Admission:
    return Admission(QUEUE._replace(**given))


def test_a_free_slot_admits():
    assert admission().decide(A) is Verdict.ADMIT


def test_to_decide_changes_nothing():
    slots = admission(connections=1)
    assert [slots.decide(A), slots.decide(A)] == [Verdict.ADMIT, Verdict.ADMIT]
    assert (slots.live, slots.sources) == (0, {})


def test_a_slot_is_numbered_within_its_source():
    slots = admission(connections=9)
    assert [slots.take(A), slots.take(B), slots.take(A)] == [1, 1, 2]


def test_a_full_service_that_queues_is_not_polled():
    slots = admission(connections=1)
    slots.take(A)
    assert slots.is_full()
    assert not slots.wants_poll()


def test_a_full_service_that_refuses_is_polled_and_says_no():
    slots = admission(connections=1, when_full="refuse")
    slots.take(A)
    assert slots.wants_poll()
    assert slots.decide(B) is Reason.SERVICE_LIMIT


def test_a_full_source_waits_while_another_is_admitted():
    slots = admission(per_source=1)
    slots.take(A)
    assert slots.decide(A) is Verdict.WAIT
    assert slots.decide(B) is Verdict.ADMIT


def test_a_full_source_is_refused_where_nobody_waits():
    slots = admission(per_source=1, when_full="refuse")
    slots.take(A)
    assert slots.decide(A) is Reason.SOURCE_LIMIT


def test_the_service_limit_is_named_before_the_source_limit():
    slots = admission(connections=1, per_source=1, when_full="refuse")
    slots.take(A)
    assert slots.decide(A) is Reason.SERVICE_LIMIT


def test_the_room_for_waiting_is_bounded_by_connections():
    slots = admission(connections=2, per_source=1)
    slots.take(A)
    slots.park(A, 11)
    slots.park(A, 12)
    assert slots.decide(A) is Reason.WAITING_LIMIT
    assert slots.decide(B) is Verdict.ADMIT


def test_waiting_connections_of_a_source_keep_their_order():
    slots = admission(connections=9, per_source=1)
    slots.take(A)
    for conn in (1, 2, 3):
        slots.park(A, conn)
    order = []
    for _ in range(3):
        slots.give(A)
        order.append(slots.next_waiting())
        slots.take(A)
    assert order == [1, 2, 3]


def test_waiting_sources_take_turns():
    slots = admission(connections=9, per_source=1)
    for conn, source in enumerate([A, A, B, B, C]):
        slots.park(source, conn)
    # Nobody holds a slot here: whoever is first in line is next.
    assert [slots.next_waiting() for _ in range(6)] == [0, 2, 4, 1, 3, None]


def test_a_source_at_its_limit_does_not_stall_the_line():
    slots = admission(connections=9, per_source=1)
    slots.take(A)
    slots.park(A, 1)
    slots.park(B, 2)
    assert slots.next_waiting() == 2
    assert slots.next_waiting() is None


def test_nobody_leaves_the_room_of_a_full_service():
    slots = admission(connections=1, per_source=1)
    slots.take(A)
    slots.park(B, 1)
    assert slots.next_waiting() is None
    slots.give(A)
    assert slots.next_waiting() == 1


def test_to_forget_the_waiting_returns_each_once():
    slots = admission(connections=9, per_source=1)
    for conn, source in enumerate([A, B, A]):
        slots.park(source, conn)
    assert sorted(slots.forget_waiting()) == [0, 1, 2]
    assert slots.forget_waiting() == []
    slots.check()


def test_a_source_without_slots_leaves_no_trace():
    slots = admission()
    slots.take(A)
    slots.give(A)
    assert (slots.live, slots.sources) == (0, {})


def test_limits_lowered_below_use_free_nothing_and_admit_nobody():
    slots = admission(connections=9, when_full="refuse")
    for _ in range(3):
        slots.take(A)
    slots.limits = slots.limits._replace(connections=2)
    assert slots.live == 3
    assert slots.decide(B) is Reason.SERVICE_LIMIT
    slots.give(A)
    assert slots.decide(B) is Reason.SERVICE_LIMIT
    slots.give(A)
    assert slots.decide(B) is Verdict.ADMIT


def test_every_reason_has_a_word_of_its_own():
    assert len({reason.value for reason in Reason}) == len(Reason)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda slots: setattr(slots, "live", 2),
        lambda slots: slots.sources.update({B: 0}),
        lambda slots: setattr(slots, "waiting_count", 1),
        lambda slots: slots.waiting.setdefault(B, type(slots.waiting[A])()),
    ],
)
def test_the_audit_of_the_slots_sees_a_spoilt_book(spoil):
    slots = admission(connections=9, per_source=1)
    slots.take(A)
    slots.park(A, 1)
    slots.park(A, 2)
    slots.check()
    spoil(slots)
    with pytest.raises(AssertionError):
        slots.check()
