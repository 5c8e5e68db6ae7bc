"""That no reader of the cache ever sees half a body, whoever is killed and when."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import select
import signal
import time
from contextlib import suppress

from superd.handlers.cache import keyfile, locks
from superd.handlers.cache.drafts import Draft
from superd.handlers.cache.keyfile import body_path
from superd.handlers.cache.store import Store

SIZE = 1 << 26
PR_SET_PDEATHSIG = 1
KILLS = 60
LENGTHS = [100, 5000, 20_000, 70_000, 300_000]
KEYS = [b"http://example.com/%d" % number for number in range(6)]
WHOLE, TORN, KEPT = b".", b"!", b"k"


class HastyDraft(Draft):
    """As Draft, but its record is there before the body is written."""

    __slots__ = ("late",)

    def _flush(self):
        self.late = [*getattr(self, "late", ()), bytes(self._buffer)]
        if self._fd == -1:
            self._fd = self._create()
        os.ftruncate(self._fd, self.size)
        self._buffer.clear()

    def keep(self, meta, replaces=None):
        kept = super().keep(meta, replaces)
        if kept is not None and not kept.inline:
            with suppress(FileNotFoundError):  # another has replaced it already
                fd = os.open(self._path, os.O_WRONLY)
                for one in self.late:
                    os.write(fd, one)
                os.close(fd)
        return kept


class HastyStore(Store):
    def begin(self, key):
        return HastyDraft(self, key, self.record_path(key))


def write_on(make, folder, seed, out):
    """Store, renew and remove for ever."""
    store, chance = make(folder, SIZE, SIZE), random.Random(seed)
    while True:
        key = chance.choice(KEYS)
        with store.begin(key) as draft:
            whole = hashlib.sha256()
            for _ in range(chance.choice(LENGTHS) // 100):
                data = chance.randbytes(10) * 10
                whole.update(data)
                draft.write(data)
            same = chance.choice([None, lambda _: True])
            kept = draft.keep(whole.digest() + b"first", same)
        if kept and chance.random() < 0.3:
            store.renew(kept, kept.meta[:32] + b"again")
        if chance.random() < 0.1:
            store.remove(key)
        elif kept and chance.random() < 0.1:
            store.remove_variant(kept)
        # On a busy machine a lock's patience may end, which loses one answer.
        os.write(out, KEPT if kept else b"")


def read_all(store, key):
    """Compare each body with its metadata; gives a mark for each."""
    for variant in store.variants(key):
        entry = variant.open()
        if entry is not None:
            with entry:
                data = entry.data
                if data is None:
                    data = os.pread(entry.fd, entry.size + 1, 0)
            right = len(data) == variant.size
            right &= hashlib.sha256(data).digest() == variant.meta[:32]
            yield WHOLE if right else TORN


def read_on(_, folder, seed, out):
    store, chance = Store(folder, SIZE, SIZE), random.Random(seed)
    while True:
        for mark in read_all(store, chance.choice(KEYS)):
            os.write(out, mark)


def die_with_the_parent():
    """Leave nobody behind who reads for ever, were the test itself killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def start(work, *args):
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_the_parent()
        work(*args)
    except BaseException as error:  # noqa: BLE001  nothing crosses a fork
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(1)


def end(pid):
    """Kill it; it was alive until then."""
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


class Crowd:
    """Writers and readers of one folder, and what they say."""

    def __init__(self, make, folder, writers, readers):
        self.make, self.folder, self.seed = make, folder, 0
        self.reader, self.out = os.pipe()
        self.said = dict.fromkeys((WHOLE, TORN, KEPT), 0)
        self.writers = [self.start(write_on) for _ in range(writers)]
        self.readers = [self.start(read_on) for _ in range(readers)]

    def start(self, work):
        self.seed += 1
        return start(work, self.make, self.folder, self.seed, self.out)

    def listen(self, seconds):
        """Hear what they say for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.reader], [], [], left)[0]:
                data = os.read(self.reader, 65536)
                for mark in self.said:
                    self.said[mark] += data.count(mark)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Let none of them go on, whatever the test has found."""
        pids = (*self.writers, *self.readers)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        self.listen(0.05)
        os.close(self.reader)
        os.close(self.out)
        assert statuses == [-signal.SIGKILL] * len(pids)


def stored(folder):
    return {
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if len(os.path.basename(where)) == 2
    }


def test_no_body_is_torn_while_writers_are_killed(tmp_path):
    folder = str(tmp_path / "cache")
    store, chance = Store(folder, SIZE, SIZE), random.Random(60)
    with Crowd(Store, folder, writers=3, readers=2) as crowd:
        for _ in range(KILLS):
            crowd.listen(chance.random() * 0.05)
            which = chance.randrange(3)
            end(crowd.writers[which])
            crowd.writers[which] = crowd.start(write_on)
        # However busy the machine is: there is something to have been seen.
        until = time.monotonic() + 20
        said = crowd.said
        while min(said[WHOLE], said[KEPT]) < 100 and time.monotonic() < until:
            crowd.listen(0.1)
    assert crowd.said[TORN] == 0
    assert min(crowd.said[WHOLE], crowd.said[KEPT]) >= 100
    everything_is_in_order(store)


def everything_is_in_order(store):
    """After a sweep nothing is there but records and the bodies that they name."""
    store.ledger.add(SIZE + 1 - store.ledger.look())
    assert store.sweep()
    expected = set()
    for key in KEYS:
        variants = store.variants(key)
        assert set(read_all(store, key)) <= {WHOLE}
        path = store.record_path(key)
        expected |= {path} if variants else set()
        expected |= {body_path(path, one.name) for one in variants if not one.inline}
    assert stored(store.folder) == expected
    used = sum(os.stat(one).st_blocks * 512 for one in expected)
    assert store.ledger.look() == used


def test_a_store_that_shows_a_body_too_early_is_found_out(tmp_path):
    """The same crowd, nobody killed: so the readers above would have seen it."""
    folder = str(tmp_path / "cache")
    Store(folder, SIZE, SIZE)
    with Crowd(HastyStore, folder, writers=2, readers=2) as crowd:
        until = time.monotonic() + 20
        while not crowd.said[TORN] and time.monotonic() < until:
            crowd.listen(0.05)
    assert crowd.said[TORN]


def test_a_writer_killed_between_any_two_calls_leaves_a_whole_cache(tmp_path):
    """One after the other: at its first system call, its second, and so on."""
    for number in range(1, 200):
        folder = str(tmp_path / f"cache{number}")
        store = Store(folder, SIZE, SIZE)
        old, new = bytes(70_000), b"n" * 80_000
        write_one(store, old)
        pid = start(die_at, number, folder, new)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        (variant,) = store.variants(KEYS[0])
        with variant.open() as entry:
            data = os.pread(entry.fd, entry.size + 1, 0)
        assert data in (old, new)
        assert variant.meta == hashlib.sha256(data).digest()
        everything_is_in_order(store)
        if status == 0:
            assert data == new
            assert number > 10
            break
        assert status == -signal.SIGKILL
    else:
        raise AssertionError("it never came to its end")


def write_one(store, body):
    with store.begin(KEYS[0]) as draft:
        draft.write(body)
        assert draft.keep(hashlib.sha256(body).digest(), lambda _: True)


CALLS = ["open", "close", "unlink", "rename", "write", "pwrite", "utime", "mkdir"]


def die_at(number, folder, body):
    """Write, and be killed right before a call of the system that changes something."""
    store = Store(folder, SIZE, SIZE)
    count = 0

    def counted(call):
        def instead(*args, **keys):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **keys)

        return instead

    # In this process alone, which ends here.
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    locks.take = counted(locks.take)
    locks.release = counted(locks.release)
    keyfile.write_all = counted(keyfile.write_all)
    write_one(store, body)
    os._exit(0)
