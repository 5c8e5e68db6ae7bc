"""What the store of the cache keeps, and what it gives back: to this process and others."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import contextmanager

import pytest
from cache_folder import KEY, SIZE, body_of, found, new_store, put
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache import keyfile
from superd.handlers.cache.claims import Claims
from superd.handlers.cache.keyfile import MOST, Variant
from superd.handlers.cache.shelf import Shelf
from superd.handlers.cache.store import TOUCH_NS
from superd.handlers.exits import SetupError

LENGTHS = [0, 1, 16384, 16385, 65536, 65537, 300_000]


def files(folder):
    """Name what is stored: records and bodies."""
    return sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder / "cache")
        for name in names
        if len(os.path.basename(where)) == 2
    )


@contextmanager
def limit(which, soft):
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def no_descriptors():
    """Let nothing more be opened."""
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    return limit(resource.RLIMIT_NOFILE, lowest)


@pytest.mark.parametrize("shelf", [0, SIZE])
@pytest.mark.parametrize("length", LENGTHS)
def test_what_was_kept_is_found_by_this_process_and_another(tmp_path, length, shelf):
    store = new_store(tmp_path, shelf=shelf)
    body = os.urandom(length)
    assert found(store) == []
    kept = put(store, KEY, body)
    assert kept is not None
    assert kept.size == length
    assert body_of(kept) == body
    for one in (store, new_store(tmp_path, shelf=shelf)):
        for _ in range(2):
            assert found(one) == [(b"meta", body)]
    assert found(store, KEY + b"x") == []


def test_nothing_is_seen_of_a_body_before_it_is_kept(tmp_path):
    store = new_store(tmp_path)
    draft = store.begin(KEY)
    draft.write(bytes(200_000))
    assert found(store) == []
    assert len(files(tmp_path)) == 1
    assert draft.keep(b"") is not None
    draft.drop()
    draft.write(b"more")
    assert draft.keep(b"") is None
    assert found(store) == [(b"", bytes(200_000))]


def test_a_draft_that_is_dropped_leaves_nothing(tmp_path):
    store = new_store(tmp_path)
    with store.begin(KEY) as draft:
        draft.write(bytes(200_000))
    assert not draft.alive
    assert files(tmp_path) == []
    assert store.ledger.look() == 0


def test_a_small_answer_is_one_file(tmp_path):
    put(new_store(tmp_path), KEY, bytes(1024))
    assert len(files(tmp_path)) == 1


def test_one_variant_replaces_another_or_stands_beside_it(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    first = put(store, KEY, b"1" * 20_000, b"a")
    put(other, KEY, b"2", b"b")
    assert found(store) == [(b"b", b"2"), (b"a", b"1" * 20_000)]
    put(store, KEY, b"3", b"c", first)
    assert found(other) == [(b"c", b"3"), (b"b", b"2")]
    put(other, KEY, b"4", b"d", lambda one: one.meta == b"b")
    assert found(store) == [(b"d", b"4"), (b"c", b"3")]
    assert len(files(tmp_path)) == 1


def test_there_are_so_many_variants_and_the_oldest_go(tmp_path):
    store = new_store(tmp_path)
    for number in range(MOST + 3):
        put(store, KEY, bytes(2000), b"%d" % number)
    metas = [one.meta for one in store.variants(KEY)]
    assert metas == [b"%d" % number for number in range(MOST + 2, 2, -1)]
    assert len(files(tmp_path)) == 1 + sum(not v.inline for v in store.variants(KEY))


@pytest.mark.parametrize("length", LENGTHS)
def test_metadata_is_renewed_and_the_body_stays(tmp_path, length):
    store, other = new_store(tmp_path), new_store(tmp_path)
    body = os.urandom(length)
    old = put(store, KEY, body, b"old")
    put(store, KEY, b"beside", b"2")
    assert len(found(other)) == 2
    names = [one for one in files(tmp_path) if "." in os.path.basename(one)]
    renewed = store.renew(old, b"new")
    assert renewed is not None
    assert body_of(renewed) == body
    assert found(other) == found(store) == [(b"new", body), (b"2", b"beside")]
    assert names == [one for one in files(tmp_path) if "." in os.path.basename(one)]


def test_what_was_replaced_meanwhile_is_not_renewed(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    old = put(store, KEY, b"1", b"old")
    put(other, KEY, b"2", b"other", lambda _: True)
    assert store.renew(old, b"new") is None
    assert found(store) == [(b"other", b"2")]
    other.remove(KEY)
    assert store.renew(old, b"new") is None
    assert found(store) == []


@pytest.mark.parametrize("length", LENGTHS)
def test_what_was_removed_is_gone_for_all(tmp_path, length):
    store, other = new_store(tmp_path), new_store(tmp_path)
    put(store, KEY, bytes(length), b"1")
    second = put(store, KEY, bytes(length), b"2")
    assert len(found(other)) == 2
    store.remove_variant(second)
    assert [meta for meta, _ in found(other)] == [b"1"]
    store.remove(KEY)
    assert found(other) == found(store) == []
    assert files(tmp_path) == []
    assert store.ledger.look() == 0
    store.remove(KEY)
    store.remove_variant(second)


def test_who_has_a_body_open_reads_on_when_it_is_removed(tmp_path):
    store = new_store(tmp_path)
    with put(store, KEY, b"x" * 100_000).open() as entry:
        store.remove(KEY)
        assert os.pread(entry.fd, entry.size + 1, 0) == b"x" * 100_000
    entry.close()


# -- the shelf ------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 40_000])
def test_a_hit_of_the_shelf_opens_nothing(tmp_path, length):
    store = new_store(tmp_path)
    body = os.urandom(length)
    put(store, KEY, body)
    (variant,) = store.variants(KEY)
    variant.facts = "what the caller made of it"
    assert body_of(variant) == body
    with no_descriptors():
        (again,) = store.variants(KEY)
        assert body_of(again) == body
    assert again is variant
    assert again.facts == "what the caller made of it"


def test_the_shelf_is_seen_to_be_out_of_date_however_fast_the_change(tmp_path):
    store, other = new_store(tmp_path), new_store(tmp_path)
    for number in range(200):
        # An even number of changes, of one length: the inode's number comes back.
        put(other, KEY, b"-", b"----", lambda _: True)
        put(other, KEY, b"%04d" % number, b"%04d" % number, lambda _: True)
        assert found(store) == [(b"%04d" % number, b"%04d" % number)]


def test_a_process_out_of_descriptors_misses_and_removes_nothing(tmp_path):
    put(new_store(tmp_path), KEY, bytes(100_000))
    store = new_store(tmp_path)
    with no_descriptors():
        assert store.variants(KEY) == ()
    (variant,) = store.variants(KEY)
    with no_descriptors():
        assert variant.open() is None
        draft = store.begin(KEY)
        draft.write(bytes(100_000))
        assert draft.why == "EMFILE"
        assert put(store, KEY, b"small") is None
    assert found(store) == [(b"meta", bytes(100_000))]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70_000)), max_size=30))
def test_on_the_shelf_is_never_more_than_it_has_room_for(steps):
    shelf = Shelf(room=100_000)
    state = keyfile.State(1, 1, 1)
    for number, size in steps:
        key = b"%d" % number
        variant = Variant(key, b"n", size, 0, b"m", None)
        if size % 2:
            variant.data = bytes(size)
        shelf.keep(key, "path", state, (variant,))
        shelf.add_body(variant, bytes(size))
        kept = shelf._kept.values()
        data = sum(len(v.data or b"") for one in kept for v in one.variants)
        assert data <= sum(one.weight for one in kept) == 100_000 - shelf._free
        assert shelf._free >= 0


def test_a_use_is_written_down_now_and_then(tmp_path):
    clock = [10**18]
    store = new_store(tmp_path, clock_ns=lambda: clock[0])
    put(store, KEY, b"x")
    (path,) = files(tmp_path)
    for one in (store, new_store(tmp_path, clock_ns=lambda: clock[0])):
        before = os.stat(path)
        clock[0] += TOUCH_NS
        assert one.variants(KEY)
        assert os.stat(path).st_atime_ns == before.st_atime_ns
        clock[0] += 1
        assert one.variants(KEY)
        assert os.stat(path).st_atime_ns == clock[0]
        assert os.stat(path).st_mtime_ns == before.st_mtime_ns
        assert found(store) == [(b"meta", b"x")]


# -- what cannot be stored ------------------------------------------------------------


def test_a_body_that_is_too_large_ends_the_draft_and_nothing_else(tmp_path):
    store = new_store(tmp_path, largest=100_000)
    draft = store.begin(KEY)
    draft.write(bytes(100_000))
    assert draft.alive
    draft.write(b"1")
    assert (draft.alive, draft.why) == (False, "too large")
    draft.write(b"more")
    assert draft.keep(b"") is None
    assert files(tmp_path) == []
    assert new_store(tmp_path, size=80_000).largest == 10_000


def test_a_disk_that_is_full_ends_the_draft_and_nothing_else(tmp_path):
    """EFBIG stands for ENOSPC and EDQUOT: it can be had without a disk of one's own."""
    store = new_store(tmp_path)
    with limit(resource.RLIMIT_FSIZE, 80_000):
        draft = store.begin(KEY)
        draft.write(bytes(70_000))
        assert draft.alive
        draft.write(bytes(70_000))
        assert (draft.alive, draft.why) == (False, "EFBIG")
    with limit(resource.RLIMIT_FSIZE, 1000):
        assert put(store, KEY, bytes(5000)) is None
    assert files(tmp_path) == []
    assert found(store) == []
    assert put(store, KEY, b"now") is not None


def test_an_invalidation_needs_no_room_on_the_disk(tmp_path):
    store = new_store(tmp_path)
    put(store, KEY, bytes(5000), b"1")
    second = put(store, KEY, bytes(5000), b"2")
    with limit(resource.RLIMIT_FSIZE, 1000):
        store.remove_variant(second)
    assert b"2" not in [meta for meta, _ in found(store)]


def test_metadata_has_a_largest_size(tmp_path):
    store = new_store(tmp_path)
    assert put(store, KEY, b"", bytes(keyfile.LONGEST_META + 1)) is None
    kept = put(store, KEY, b"", bytes(keyfile.LONGEST_META))
    assert store.renew(kept, bytes(keyfile.LONGEST_META + 1)) is None
    for _ in range(MOST):
        assert put(store, KEY, b"", bytes(keyfile.LONGEST_META))
    assert 1 < len(store.variants(KEY)) < MOST


def test_a_folder_that_is_emptied_meanwhile_is_filled_again(tmp_path):
    store = new_store(tmp_path)
    put(store, KEY, bytes(100_000))
    for name in os.listdir(store.folder):
        path = os.path.join(store.folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    assert found(store) == []
    assert put(store, KEY, bytes(100_000)) is not None
    assert found(store) == [(b"meta", bytes(100_000))]
    shutil.rmtree(store.folder)
    assert found(store) == []
    assert put(store, KEY, b"x") is None
    store.remove(KEY)
    assert store.sweep()


def test_a_folder_that_was_emptied_under_a_running_proxy_is_taken_again(tmp_path):
    store = new_store(tmp_path)
    for name in os.listdir(store.folder):
        path = os.path.join(store.folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    put(store, KEY, b"x")
    Claims(store.folder).claim(KEY).release()
    assert "version" not in os.listdir(store.folder)
    assert found(new_store(tmp_path)) == [(b"meta", b"x")]


def test_rooms_alone_are_not_taken_for_a_cache(tmp_path):
    folder = tmp_path / "cache"
    (folder / "ab").mkdir(parents=True)
    folder.chmod(0o700)
    with pytest.raises(SetupError, match="ENOTEMPTY"):
        new_store(tmp_path)
