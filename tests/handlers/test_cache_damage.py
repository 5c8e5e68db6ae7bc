"""Which folders the cache takes, and what damage in one of them does: it is a miss."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zlib

import pytest
from cache_folder import KEY, SIZE, body_of, found, new_store, put
from hypothesis import given, settings
from hypothesis import strategies as st

from superd.handlers.cache import keyfile
from superd.handlers.cache.store import Store
from superd.handlers.exits import SetupError

# -- the folder -----------------------------------------------------------------------


def test_all_is_for_the_user_alone(tmp_path):
    store = new_store(tmp_path)
    put(store, KEY, bytes(100_000))
    for where, folders, names in os.walk(store.folder):
        assert stat.S_IMODE(os.stat(where).st_mode) == 0o700
        for name in names:
            assert os.stat(os.path.join(where, name)).st_mode & 0o777 == 0o600
        assert "lost+found" not in folders


def a_file(path):
    path.write_bytes(b"")


def open_to_others(path):
    path.mkdir()
    path.chmod(0o770)


def somebody_elses_files(path):
    (path / "ab").mkdir(parents=True)


def another_layout(path):
    path.mkdir()
    (path / "version").write_bytes(b"superd cache 2\n")


def a_strange_version(path):
    (path / "version").mkdir(parents=True)


def a_strange_ledger(path):
    Store(str(path), SIZE, SIZE)
    (path / "ledger").unlink()
    os.mkfifo(path / "ledger")


def no_parent(path):
    path.parent.rmdir()


def a_dangling_link(path):
    path.symlink_to("nowhere")


def anothers_folder(path):
    path.mkdir()
    os.chown(path, 65534, -1)


def anothers_link(path):
    path.with_name("real").mkdir()
    path.symlink_to("real")
    os.chown(path, 65534, -1, follow_symlinks=False)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (a_file, "EEXIST: it, or what it should be in, is no folder"),
        (open_to_others, "EPERM: others may write to it (mode 0770); chmod it to 0700"),
        (somebody_elses_files, "ENOTEMPTY: holds 'ab', which no cache of superd made"),
        (another_layout, r"EINVAL: its layout is b'superd cache 2\n', and this superd"),
        (a_strange_version, "EISDIR: "),
        (a_strange_ledger, "ESPIPE: "),
        (no_parent, "ENOENT: the folder that it should be in does not exist"),
        (a_dangling_link, "EEXIST: it, or what"),
        pytest.param(
            *(anothers_folder, "EPERM: belongs to user 65534, not to 0; chown it to 0"),
            marks=pytest.mark.root,
        ),
        pytest.param(
            *(anothers_link, "ELOOP: a symbolic link of user 65534"),
            marks=pytest.mark.root,
        ),
    ],
)
def test_a_folder_that_will_not_do_is_refused_with_what_to_do(tmp_path, prepare, words):
    path = tmp_path / "parent" / "cache"
    path.parent.mkdir()
    prepare(path)
    with pytest.raises(SetupError) as caught:
        Store(str(path), SIZE, SIZE)
    assert str(caught.value).startswith(f"cache {path}: {words}")


@pytest.mark.root
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path):
    os.seteuid(65534)
    try:
        with pytest.raises(SetupError, match="EACCES: user 65534 may not; give"):
            new_store(tmp_path)
    finally:
        os.seteuid(0)


def test_an_own_link_leads_to_the_folder_and_an_empty_one_will_do(tmp_path):
    (tmp_path / "real" / "lost+found").mkdir(parents=True)
    (tmp_path / "cache").symlink_to("real")
    put(new_store(tmp_path), KEY, b"x")
    assert found(new_store(tmp_path)) == [(b"meta", b"x")]


# -- damage ---------------------------------------------------------------------------

BODIES = {b"inline": b"i" * 100, b"small": b"s" * 30_000, b"large": b"l" * 90_000}
DAMAGES = {
    "garbage": lambda *args: replace(*args),  # noqa: PLW0108  it stands below
    "cut": lambda path, data: os.truncate(
        path, os.path.getsize(path) * len(data) // 99
    ),
    "longer": lambda path, data: replace(path, content(path) + data),
    "flipped": lambda path, data: replace(path, flipped(content(path), data)),
    "gone": lambda path, _: os.unlink(path),
    "folder": lambda path, _: (os.unlink(path), os.mkdir(path)),
    "fifo": lambda path, _: (os.unlink(path), os.mkfifo(path)),
    "link": lambda path, _: (os.unlink(path), os.symlink(decoy(path), path)),
    "another": lambda path, _: shutil.copyfile(FILES[0], path),
}
FILES = []


def decoy(path):
    """Make a file of the test's own: what follows a link by mistake harms nobody."""
    name = os.path.join(path.partition("/cache")[0], "decoy")
    replace(name, b"root:x:0:0:::")
    return name


def content(path):
    with open(path, "rb") as file:
        return file.read()


def replace(path, data):
    with open(path, "wb") as file:
        file.write(data)


def flipped(data, where):
    changed = bytearray(data)
    for one in where or b"\0":
        changed[(one * 7919) % len(changed)] ^= 1 << (one % 8)
    return bytes(changed)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from(sorted(DAMAGES)),
    st.binary(max_size=98),
    st.booleans(),
)
def test_damage_is_a_miss_and_never_an_exception(which, damage, data, is_known):
    folder = tempfile.mkdtemp(prefix="superd-test-")
    try:
        path = os.path.join(folder, "cache")
        store = Store(path, SIZE, SIZE)
        for key, body in BODIES.items():
            put(store, key, body, key)
        paths = [
            os.path.join(where, name)
            for where, _, names in os.walk(path)
            for name in names
        ]
        victim = paths[which % len(paths)]
        is_large = os.path.getsize(victim) == 90_000
        FILES[:] = [paths[-1]]
        if victim == paths[-1] and damage == "another":
            return
        DAMAGES[damage](victim, data)
        try:
            store = store if is_known else Store(path, SIZE, SIZE)
        except SetupError:
            assert os.path.basename(victim) in ("version", "ledger")
            return
        for _ in range(2):
            for key, body in BODIES.items():
                for variant in store.variants(key):
                    assert variant.meta == key
                    got = body_of(variant)
                    # The one thing that is believed: see the store.
                    assert got in (None, body) or (damage == "flipped" and is_large)
        if damage not in {"folder", "fifo", "link"}:
            for key, body in BODIES.items():
                assert put(store, key, body, key, lambda _: True) is not None
                assert found(store, key) == [(key, body)]
        store.ledger.used = SIZE + 1
        assert store.sweep()
    finally:
        shutil.rmtree(folder)


@given(st.binary(max_size=200), st.integers(0, 65535), st.integers(0, 300))
def test_no_bytes_with_the_right_checksum_are_an_exception(data, count, length):
    head = count.to_bytes(2, "little") + length.to_bytes(4, "little")
    crc = zlib.crc32(head + data).to_bytes(4, "little")
    for key in (None, data[:length]):
        variants = keyfile.unpack(keyfile.MAGIC + crc + head + data, key, None)
        assert variants is None or len(variants) == count


@given(st.binary(max_size=300))
def test_no_bytes_without_it_are_a_record(data):
    assert keyfile.unpack(data, None, None) is None
    assert keyfile.unpack(keyfile.MAGIC + data, None, None) is None
