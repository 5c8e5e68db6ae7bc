"""How the cache makes room, and that it never takes more than it may."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache import locks
from superd.handlers.cache.drafts import WRITING
from superd.handlers.cache.eviction import _Plan, _remove_dead
from superd.handlers.cache.ledger import COUNT, SWEEP, Ledger
from superd.handlers.cache.store import Store

SIZE = 1 << 20
HOUR = 3_600_000_000_000
IN_FLIGHT = 1 << 17
"""What a process may have on the disk for a moment: a chunk, and a record's other copy."""


class Clock:
    def __init__(self):
        self.now = 1_700_000_000 * 10**9 + 1

    def __call__(self):
        return self.now


def new_store(folder, size=SIZE, **keys):
    return Store(str(folder / "cache"), size, size, **keys)


def put(store, key, length, meta=b"meta"):
    with store.begin(key) as draft:
        for at in range(0, length, 50_000):
            draft.write(bytes(min(50_000, length - at)))
        return draft.keep(meta, lambda _: True)


def on_disk(store):
    """Add up the files; what goes meanwhile is gone."""
    total = 0
    for where, _, names in os.walk(store.folder):
        if len(os.path.basename(where)) == 2:
            for name in names:
                try:
                    info = os.lstat(os.path.join(where, name))
                except FileNotFoundError:
                    continue
                total += info.st_blocks * 512
    return total


def names(store):
    return {
        name
        for where, _, found in os.walk(store.folder)
        for name in found
        if len(os.path.basename(where)) == 2
    }


def key(number):
    return b"http://example.com/%d" % number


def test_the_least_recently_used_goes_down_to_nine_tenths(tmp_path):
    clock = Clock()
    store = new_store(tmp_path, clock_ns=clock)
    for number in range(10):
        clock.now += HOUR
        put(store, key(number), 100_000)
    assert store.due
    clock.now += HOUR
    for number in (0, 2):
        assert store.variants(key(number))
    assert store.sweep()
    assert not store.due
    left = [number for number in range(10) if store.variants(key(number))]
    assert left == [0, 2, 4, 5, 6, 7, 8, 9]
    assert store.ledger.look() == on_disk(store) <= SIZE * 9 // 10
    assert len(names(store)) == 16


def test_of_one_minute_no_more_goes_than_must(tmp_path):
    store = new_store(tmp_path, clock_ns=lambda: 1_700_000_000 * 10**9 + 1)
    for number in range(10):
        put(store, key(number), 100_000)
    assert store.sweep()
    assert sum(bool(store.variants(key(number))) for number in range(10)) == 8


def test_nothing_goes_while_there_is_room(tmp_path):
    store = new_store(tmp_path)
    for number in range(9):
        put(store, key(number), 100_000)
    assert not store.due
    assert store.sweep()
    assert all(store.variants(key(number)) for number in range(9))


def test_without_a_sweep_the_cache_stops_at_its_size_and_an_eighth(tmp_path):
    store = new_store(tmp_path)
    kept = [put(store, key(number), 100_000) for number in range(20)]
    assert kept.count(None) == 9
    assert on_disk(store) == store.ledger.look() <= SIZE * 9 // 8
    draft = store.begin(b"one more")
    draft.write(bytes(100_000))
    assert (draft.alive, draft.why) == (False, "ENOSPC")
    assert store.due
    assert store.sweep()
    assert put(store, b"one more", 100_000)


@pytest.mark.parametrize("length", [0, 5000, 16_385, 100_000])
def test_the_count_is_what_is_on_the_disk(tmp_path, length):
    store = new_store(tmp_path)
    first = put(store, key(1), length)
    put(store, key(2), length)
    assert store.ledger.look() == on_disk(store)
    store.renew(first, bytes(20_000))
    assert store.ledger.look() == on_disk(store)
    put(store, key(1), length // 2)
    assert store.ledger.look() == on_disk(store)
    with store.begin(key(3)) as draft:
        draft.write(bytes(length))
    assert store.ledger.look() == on_disk(store)
    store.remove(key(1))
    assert store.ledger.look() == on_disk(store)
    store.remove(key(2))
    assert store.ledger.look() == on_disk(store) == 0


def garbage(path):
    with open(path, "r+b") as file:
        file.write(b"\xff" * 20)


@pytest.mark.parametrize("spoil", [os.unlink, garbage], ids=["gone", "garbage"])
def test_a_count_that_is_lost_is_made_anew(tmp_path, spoil):
    put(new_store(tmp_path), key(1), 100_000)
    spoil(tmp_path / "cache" / "ledger")
    store = new_store(tmp_path)
    assert store.due
    assert store.sweep()
    assert not store.due
    assert store.ledger.look() == on_disk(store) == 106_496


def test_a_sweep_goes_on_where_its_deadline_stopped_it(tmp_path):
    store = new_store(tmp_path)
    for number in range(10):
        put(store, key(number), 100_000)
    calls = 1
    while not store.sweep(time.monotonic()):
        assert store.due
        calls += 1
    assert calls > 256
    assert on_disk(store) <= SIZE * 9 // 10


def test_one_process_sweeps_at_a_time(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    for number in range(10):
        put(store, key(number), 100_000)
    assert not store.sweep(time.monotonic())
    before = on_disk(store)
    assert other.sweep()
    assert on_disk(store) == before
    assert store.sweep()
    assert on_disk(store) < before


def test_a_sweep_that_is_given_up_is_another_processs(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    for number in range(10):
        put(store, key(number), 100_000)
    assert not store.sweep(time.monotonic())
    store.close()
    assert other.sweep()
    assert on_disk(store) <= SIZE * 9 // 10


def test_a_forked_process_neither_goes_on_with_a_sweep_nor_ends_it(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    for number in range(10):
        put(store, key(number), 100_000)
    before = on_disk(store)
    assert not store.sweep(time.monotonic())
    assert in_a_child(store.sweep) == 0
    assert on_disk(store) == before
    assert other.sweep()
    assert on_disk(store) == before
    assert store.sweep()
    assert on_disk(store) < before


def test_a_sweep_in_one_thread_is_none_in_another(tmp_path):
    store = new_store(tmp_path)
    for number in range(10):
        put(store, key(number), 100_000)
    before = on_disk(store)
    with store._sweeper._turn:
        assert store.sweep()
    assert on_disk(store) == before
    assert store.sweep()
    assert on_disk(store) < before


def test_a_sweep_that_cannot_help_is_not_tried_again_at_once(tmp_path):
    store = new_store(tmp_path)
    with contextlib.ExitStack() as drafts:
        for number in range(11):
            draft = drafts.enter_context(store.begin(key(number)))
            draft.write(bytes(100_000))
            assert draft.alive
        assert store.due
        assert store.sweep()
        assert store.ledger.look() > SIZE
        assert not store.due
    assert store.ledger.look() == 0


def in_a_child(work):
    """Run it in a process of its own; returns the status."""
    return os.waitstatus_to_exitcode(os.waitpid(start(work), 0)[1])


def start(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  nothing crosses a fork
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


# -- what killed processes leave ------------------------------------------------------


def left_by_the_dead(store):
    """Make a body in no record, one of no key, and a record half written."""
    put(store, key(1), 100_000)
    path = store.record_path(key(1))
    nobody = store.record_path(key(2))
    store.make_room(nobody)
    left = {f"{path}.{'0' * 16}", f"{nobody}.{'1' * 16}", f"{path}.new"}
    for one in left:
        with open(one, "wb") as file:
            file.write(bytes(5000))
    return {os.path.basename(one) for one in left}


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path):
    store = new_store(tmp_path)
    left = left_by_the_dead(store)
    draft = store.begin(key(1))
    draft.write(bytes(100_000))
    before = names(store)
    store.ledger.add(SIZE + 50_000 - store.ledger.look())
    assert left < before
    assert store.sweep()
    assert names(store) == before - left
    assert store.ledger.look() == on_disk(store)
    assert draft.keep(b"2")
    assert [one.size for one in store.variants(key(1))] == [100_000, 100_000]
    assert store.variants(key(1))[0].open().close() is None


@pytest.mark.parametrize("moment", ["locked", "removed"])
def test_a_file_that_a_sweep_got_hold_of_first_is_not_written(tmp_path, moment):
    """Between the creation of a file and its lock it looks like a dead one's."""
    store = new_store(tmp_path)
    path = store.record_path(key(1))
    store.make_room(path)
    fd = os.open(f"{path}.{'0' * 16}", os.O_RDWR | os.O_CREAT)
    sweeping = os.open(f"{path}.{'0' * 16}", os.O_RDWR)
    try:
        if moment == "locked":
            assert locks.take(sweeping, WRITING)
        else:
            os.unlink(f"{path}.{'0' * 16}")
        with pytest.raises(FileNotFoundError, match="swept"):
            store.begin(key(1))._own(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        os.close(sweeping)


def test_what_was_used_while_a_sweep_came_to_it_stays(tmp_path):
    clock = Clock()
    store = new_store(tmp_path, clock_ns=clock)
    put(store, key(1), 100_000)
    digest = os.path.basename(store.record_path(key(1)))
    sweeper = store._sweeper
    group = sweeper._groups(digest[:2])[digest]
    plan = _Plan({group.used: group.size}, 1)
    assert plan.is_due(group.used)
    clock.now += HOUR
    assert store.variants(key(1))
    assert sweeper._evict(digest[:2], digest, group, plan) == 0
    assert store.variants(key(1))
    later = sweeper._groups(digest[:2])[digest]
    plan = _Plan({later.used: later.size}, 1)
    assert sweeper._evict(digest[:2], digest, later, plan) == 106_496
    assert not store.variants(key(1))


def test_a_body_that_was_kept_while_a_sweep_looked_at_it_stays(tmp_path):
    store = new_store(tmp_path)
    kept = put(store, key(1), 100_000)
    record = store.record_path(key(1))
    assert not _remove_dead(record, kept.name)
    assert kept.open().close() is None
    os.unlink(record)
    assert _remove_dead(record, kept.name)
    assert names(store) == set()


def test_a_dead_writers_bytes_are_counted_until_a_sweep_finds_out(tmp_path):
    store = new_store(tmp_path)

    def die():
        draft = store.begin(key(1))
        draft.write(bytes(100_000))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(die) == -signal.SIGKILL
    assert len(names(store)) == 1
    assert store.ledger.look() == 102_400
    store.ledger.add(SIZE)
    assert store.sweep()
    assert names(store) == set()
    assert store.ledger.look() == 0


# -- many at once ---------------------------------------------------------------------


def write_much(folder, size, seed, out):
    store = new_store(folder, size)
    chance = random.Random(seed)
    for _ in range(120):
        number = chance.randrange(200)
        put(store, key(number), chance.choice([500, 10_000, 40_000, 150_000]))
        if store.due:
            store.sweep()
    os.write(out, b".")


@pytest.mark.parametrize("size", [2 << 20, 4 << 20])
def test_several_writers_never_take_more_than_they_may(tmp_path, size):
    store = new_store(tmp_path, size)
    reader, writer = os.pipe()
    writers = 4
    pids = [
        start(lambda seed=seed: write_much(tmp_path, size, seed, writer))
        for seed in range(writers)
    ]
    os.close(writer)
    most = 0
    while not select.select([reader], [], [], 0.005)[0] or os.read(reader, 1):
        most = max(most, on_disk(store))
    os.close(reader)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * writers
    assert size * 9 // 10 < most <= size * 9 // 8 + writers * IN_FLIGHT
    counted, real = store.ledger.look(), on_disk(store)
    # What was added during the last walk is counted twice at most, and nothing is missed.
    assert real <= counted + writers * IN_FLIGHT
    store.ledger.add(max(size + 1 - counted, 0))
    assert store.sweep()
    assert store.ledger.look() == on_disk(store) <= size * 9 // 10


def test_the_count_of_several_processes_is_exact(tmp_path):
    path = tmp_path / "c"
    path.mkdir()
    ledger = Ledger(str(path), 1 << 30)
    ledger.begin()

    def add():
        for amount in [7, -3] * 300:
            while True:
                try:
                    ledger.add(amount)
                    break
                except locks.Busy:  # the machine is
                    continue

    pids = [start(add) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert ledger.look() == 3 * 300 * 4
    assert ledger.added() == 3 * 300 * 7


def test_a_process_that_was_stopped_with_a_lock_holds_nobody_up_for_long(tmp_path):
    store = new_store(tmp_path)
    put(store, key(1), 100)
    digest = os.path.basename(store.record_path(key(1)))
    begun = time.monotonic()
    with store.ledger.key(digest):
        assert put(store, key(1), 200) is None
        assert store.variants(key(1))[0].size == 100
        store.remove(key(1))
        assert store.variants(key(1)) == ()
    assert time.monotonic() - begun < 5
    with locks.held(store.ledger.path, COUNT):
        assert put(store, key(2), 200) is None
    with locks.held(store.ledger.path, SWEEP):
        assert put(store, key(2), 200)


# -- the plan -------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(0, 99), st.lists(st.integers(1, 50), min_size=1)),
    st.integers(-10, 3000),
)
def test_the_plan_takes_the_oldest_and_just_enough(ages, excess):
    plan = _Plan({minute: sum(sizes) for minute, sizes in ages.items()}, excess)
    gone, stay = [], []
    for minute, size in [(m, s) for m, sizes in ages.items() for s in sizes]:
        if plan.is_due(minute):
            plan.took(minute, size)
            gone.append((minute, size))
        else:
            stay.append((minute, size))
    freed = sum(size for _, size in gone)
    assert freed >= min(excess, freed + sum(size for _, size in stay))
    if gone:
        assert max(gone)[0] <= min([*stay, (99, 0)])[0]
        assert freed - excess < 50
    assert excess > 0 or not gone
