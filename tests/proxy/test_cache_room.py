"""How much room the cache takes, and what it does where there is none.

The rule of the file: whatever the disk says, clients are served.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import time

import pytest
from daemon_under_test import eventually
from proxy.cache_rig import LASTING, asked, in_order, prepared, said, url, with_cache
from proxy.client import ask, dialled, request
from proxy.origins import answers, chunked, reply
from proxy.under_test import MODES, USUAL, Proxy

SIZE = 1 << 20
HOUR_NS = 3600 * 1_000_000_000


def filling(size):
    def answer(one):
        return reply(one.target + bytes(size), LASTING)

    return answers(answer)


def in_use(folder):
    """Count what du(1) would."""
    total = 0
    for path in folder.rglob("??/*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # it has just been removed
    return total


def test_a_cache_that_was_full_keeps_again(looping, daemons, origin):
    server = origin(filling(100_000))
    use = with_cache(looping, daemons, name="again", cache={"size": SIZE})
    with dialled(use.address) as peer:
        for number in range(60):
            peer.send(request(url(server, f"/{number}"))).answer()

    def keeps_again():
        ask(use, url(server, "/last"))
        return said(ask(use, url(server, "/last"))) == "hit"

    eventually(keeps_again, "there is room again")


@pytest.mark.parametrize("size", [16_000, 100_000])
def test_what_is_stored_is_never_much_more_than_the_size(proxy, daemons, origin, size):
    server = origin(filling(size))
    name = f"full-{size}"
    use = with_cache(proxy, daemons, name=name, cache={"size": SIZE})
    folder = daemons._factory.folder / name
    count = 3 * SIZE // max(size, 4096)
    most = 0
    with dialled(use.address) as peer:
        for number in range(count):
            answer = peer.send(request(url(server, f"/{number}"))).answer()
            assert len(answer.body) >= size
            if number % (count // 10 + 1) == 0:
                most = max(most, in_use(folder))
    # 64 KiB: what may be written while another process counts (eviction.py).
    assert SIZE // 2 < most <= SIZE * 9 // 8 + 65536
    eventually(lambda: in_use(folder) <= SIZE * 9 // 8, "it is swept")


def test_the_least_recently_used_go_first(looping, daemons, origin):
    server = origin(filling(20_000))
    use = with_cache(looping, daemons, name="lru", cache={"size": SIZE})
    folder = daemons._factory.folder / "lru"

    def record(number):
        digest = hashlib.sha256(url(server, f"/{number}").encode()).hexdigest()
        return folder / digest[:2] / digest

    for number in range(20):
        ask(use, url(server, f"/{number}"))
        mtime = record(number).stat().st_mtime_ns
        os.utime(record(number), ns=(time.time_ns() - HOUR_NS, mtime))
    used, unused = range(0, 20, 2), range(1, 20, 2)
    for number in used:
        assert said(ask(use, url(server, f"/{number}"))) == "hit"
    new = iter(range(20, 1000))

    def are_gone():
        assert all(record(number).exists() for number in used)
        ask(use, url(server, f"/{next(new)}"))
        return sum(not record(number).exists() for number in unused) >= 4

    eventually(are_gone, "what nobody used has gone")


def test_what_is_larger_than_the_largest_is_passed_on_and_not_stored(
    proxy, daemons, origin
):
    body = bytes(range(256)) * 1024
    bodies = {b"/a": reply(body, LASTING), b"/b": chunked(body, lines=[LASTING])}
    server = origin(answers(lambda one: bodies[one.target[-2:]]))
    use = with_cache(proxy, daemons, cache={"largest": len(body) - 1})
    for path in ("/a", "/b"):
        for _ in range(2):
            answer = ask(use, url(server, path))
            assert (answer.body, answer.whole) == (body, True)
        assert asked(server, path) == 2


def test_what_is_just_as_large_as_the_largest_is_stored(proxy, daemons, origin):
    body = bytes(range(256)) * 1024
    server = origin(answers(reply(body, LASTING)))
    use = with_cache(proxy, daemons, cache={"largest": len(body)})
    for _ in range(2):
        assert ask(use, url(server)).body == body
    assert asked(server) == 1


@pytest.mark.parametrize(
    "large",
    [reply(bytes(5000), LASTING), chunked(bytes(5000), lines=[LASTING])],
    ids=["told", "found out"],
)
def test_what_is_too_large_ends_what_was_stored(looping, daemons, origin, large):
    """The old answer is no longer true all the same."""
    server = origin(in_order(reply(b"one", LASTING), large))
    use = with_cache(looping, daemons, cache={"largest": 4000})
    ask(use, url(server))
    assert len(ask(use, url(server), "Cache-Control: no-cache").body) == 5000
    assert len(ask(use, url(server)).body) == 5000


# -- a disk without room --------------------------------------------------------------


def of_our_own(superd, folder, **more):
    """Start a proxy in both modes, with a folder of its own."""
    options = {**USUAL, "cache": {"folder": str(folder)}}
    services = {
        mode: {
            "listen": "127.0.0.1:0",
            "handler": "proxy",
            "options": options,
            **MODES[mode],
        }
        for mode in ("loop", "process")
    }
    daemon = superd({"services": services}, **more)
    return [Proxy(daemon.address(mode), mode, daemon) for mode in ("loop", "process")]


def fill(use, server, count):
    """Ask for more than there is room for; all is served, and some of it was stored."""
    hits = 0
    for number in range(count):
        for _ in range(2):
            answer = ask(use, url(server, f"/{number}"))
            assert (answer.status, answer.whole) == (200, True)
            assert answer.body.startswith(f"{server.place}/{number}\0".encode())
            hits += said(answer) == "hit"
    return hits


@pytest.mark.root
@pytest.mark.parametrize("room", ["size=1m", "nr_inodes=24"])
def test_a_full_disk_is_no_clients_business(superd, tmp_path, origin, room):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (Debian package util-linux)")
    folder = prepared(tmp_path / "cache")
    script = (
        "mount --make-rprivate / && "
        f"mount -t tmpfs -o {room},mode=0700,uid=65534,gid=65534 tmpfs {folder} && "
        'exec "$@"'
    )
    prefix = ["unshare", "-m", "sh", "-c", script, "sh"]
    server = origin(filling(100_000))
    one, other = of_our_own(superd, folder, prefix=prefix)
    assert fill(one, server, 15) < 15
    fill(other, server, 15)


def test_a_limit_of_file_sizes_is_no_clients_business(superd, tmp_path, origin):
    folder = prepared(tmp_path / "cache")
    limits = {resource.RLIMIT_FSIZE: (1 << 16, 1 << 16)}
    server = origin(filling(200_000))
    small = origin(filling(100))
    use, _ = of_our_own(superd, folder, limits=limits)
    assert fill(use, server, 3) == 0
    assert fill(use, small, 3) == 3


def test_a_folder_that_vanishes_is_no_clients_business(looping, daemons, origin):
    server = origin(filling(100_000))
    use = with_cache(looping, daemons, name="vanishes")
    folder = daemons._factory.folder / "vanishes"
    fill(use, server, 2)
    shutil.rmtree(folder)
    assert fill(use, server, 2) == 0


def test_a_limit_of_file_sizes_is_no_clients_business_in_a_process(
    superd, tmp_path, origin
):
    limits = {resource.RLIMIT_FSIZE: (1 << 16, 1 << 16)}
    _, use = of_our_own(superd, prepared(tmp_path / "cache"), limits=limits)
    assert fill(use, origin(filling(200_000)), 3) == 0
