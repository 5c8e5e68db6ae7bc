"""What is stored is whole: whoever breaks off, is killed, or comes back to the folder.

The rule of the file: a body that comes out is the one that went in, or it comes from the
origin.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
from functools import partial

import pytest
from daemon_under_test import eventually
from proxy.cache_rig import LASTING, asked, gate, prepared, said, url, with_cache
from proxy.client import ask, dialled, request
from proxy.origins import LINGER_NOT, answers, bare, chunked, reply
from proxy.under_test import MODES, USUAL, Proxy

SIZES = (0, 1, 5000, 20_000, 70_000, 1 << 20)
"""In the record, in a file with a checksum, and in one without."""
LARGE = 8 << 20


def body_of(number, size):
    """Return a body that no other is like."""
    return hashlib.shake_128(b"%d" % number).digest(min(size, 4096)) * (
        size // 4096 + 1
    )


def sized(number):
    size = SIZES[number % len(SIZES)]
    return body_of(number, size)[:size]


def by_number(one):
    """Answer by the number at the end of the path."""
    return reply(sized(int(one.target.rpartition(b"/")[2])), LASTING)


@pytest.fixture
def cached(proxy, daemons):
    """Give a proxy with a cache."""
    return partial(with_cache, proxy, daemons)


# -- what breaks off ------------------------------------------------------------------


def cut(*pieces):
    """Send the pieces on the first connection, and close; on the next all is well."""

    def play(connection):
        connection.request()
        for piece in pieces:
            connection.send(piece)
        connection.half_close()
        connection.wait_gone()

    return play


@pytest.mark.parametrize("size", [5000, 200_000])
@pytest.mark.parametrize("form", ["sized", "chunked", "reset"])
def test_a_body_that_the_origin_cut_short_is_not_stored(cached, origin, form, size):
    body = body_of(1, size)
    whole = reply(body, LASTING)
    half = whole[: -size // 3]
    if form == "chunked":
        half = chunked(body, lines=[LASTING]).removesuffix(b"0\r\n\r\n")

    def resets(connection):
        connection.request()
        connection.send(bare(LASTING) + body)
        connection.reset()

    first = resets if form == "reset" else cut(half)
    server = origin(first, answers(whole))
    use = cached()
    with dialled(use.address) as peer:
        answer = peer.send(request(url(server))).answer()
        assert answer is None or answer.status == 502 or not answer.whole
    again = ask(use, url(server))
    assert (again.body, said(again)) == (body, "fwd=miss; stored")
    assert said(ask(use, url(server))) == "hit"
    assert asked(server) == 2


def test_a_body_whose_only_end_is_the_end_is_stored_after_a_good_one(cached, origin):
    server = origin(cut(bare(LASTING), b"one"))
    use = cached()
    assert ask(use, url(server)).body == b"one"
    assert ask(use, url(server)).body == b"one"
    assert asked(server) == 1


def test_a_client_that_leaves_leaves_nothing_torn(cached, origin):
    with gate() as held:
        body = body_of(2, LARGE)

        def play(connection):
            connection.request()
            connection.send(bare(LASTING, f"Content-Length: {len(body)}"))
            connection.send(body[: 1 << 18])
            held.wait()
            connection.send(body[1 << 18 :])

        server = origin(play, answers(reply(body, LASTING)))
        use = cached()
        with dialled(use.address) as peer:
            peer.send(request(url(server)))
            assert len(peer.exactly(1 << 17)) == 1 << 17
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        held.open()
        # Stored or not: what comes next is whole.
        for _ in range(2):
            assert ask(use, url(server)).body == body
        assert said(ask(use, url(server))) == "hit"


# -- what is killed, and what comes back ----------------------------------------------


@pytest.fixture
def start(superd, tmp_path):
    """Start a proxy of our own, which may be killed and begin again."""
    folder = prepared(tmp_path / "cache")

    def begin(mode, **cache):
        options = {**USUAL, "cache": {"folder": str(folder), **cache}}
        service = {"listen": "127.0.0.1:0", "handler": "proxy", "options": options}
        killed = ["signal:SIGKILL", "worker", "throttle"]
        daemon = superd({"services": {mode: {**service, **MODES[mode]}}}, expect=killed)
        return Proxy(daemon.address(mode), mode, daemon)

    begin.folder = folder
    return begin


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loop", "process", "pool"])
def test_what_was_stored_outlives_a_kill_and_a_restart(start, origin, mode):
    torn = body_of(99, LARGE)
    with gate() as held:
        begun = []

        def play(connection):
            while True:
                one = connection.request()
                if not one.target.endswith(b"/torn"):
                    connection.send(by_number(one))
                elif begun:
                    connection.send(reply(torn, LASTING))
                else:
                    begun.append(one)
                    connection.send(bare(LASTING, f"Content-Length: {len(torn)}"))
                    connection.send(torn[: LARGE // 2])
                    held.wait()

        server = origin(play)
        use = start(mode)
        for number in range(len(SIZES)):
            assert ask(use, url(server, f"/{number}")).body == sized(number)
        with dialled(use.address) as peer:
            peer.send(request(url(server, "/torn")))
            assert peer.until(b"\r\n\r\n")
            assert len(peer.exactly(LARGE // 4)) == LARGE // 4
            port = peer.sock.getsockname()[1]
            line = use.daemon.wait_log(rf"accept service={mode} .*:{port} ")
            os.kill(int(re.search(r" pid=(\d+)", line)[1]), signal.SIGKILL)
            assert len(peer.exactly(LARGE)) < LARGE
        held.open()
    use.daemon.stop()
    use = start(mode)
    for number in range(len(SIZES)):
        answer = ask(use, url(server, f"/{number}"))
        assert (answer.body, said(answer)) == (sized(number), "hit")
    for how in ("fwd=miss; stored", "hit"):
        answer = ask(use, url(server, "/torn"))
        assert (answer.body, said(answer)) == (torn, how)


def test_a_worker_that_ends_in_the_middle_ends_what_it_did_behind(start, origin):
    """With nobody waiting for it, it is nobody's loss; and nothing is said of it."""
    lines = ["Cache-Control: max-age=50, stale-while-revalidate=900", "Age: 100"]
    with gate() as held:
        server = origin(
            answers(reply(b"one", *lines), held(reply(b"two", LASTING))),
        )
        use = start("loop")
        ask(use, url(server))
        assert ask(use, url(server)).body == b"one"
        server.wait_requests(2)
        use.daemon.stop()
        assert not use.daemon.log("never retrieved|was destroyed|exception")


# -- garbage --------------------------------------------------------------------------


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def fill(path):
    path.write_bytes(os.urandom(path.stat().st_size + 1))


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def is_plain(path):
    return path.is_file() and not path.is_symlink()


def make_link(path):
    """To a file of the test's own: what follows a link by mistake harms nobody."""
    decoy = path.parents[2] / "decoy"
    decoy.write_bytes(b"root:x:0:0:::")
    path.unlink()
    path.symlink_to(decoy)


def make_loop(path):
    path.unlink()
    path.symlink_to(path)


def lock_up(path):
    path.chmod(0)


def remove(path):
    path.unlink()


DAMAGES = [
    *(cut_short, empty, lengthen, fill, make_folder),
    *(make_fifo, make_link, make_loop, lock_up, remove),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_happens_to_a_file_the_body_is_right(cached, daemons, origin, damage):
    server = origin(answers(by_number))
    use = cached(name="damaged")
    folder = daemons._factory.folder / "damaged"
    before = {one for one in folder.rglob("*") if is_plain(one)}
    for number in range(len(SIZES)):
        ask(use, url(server, f"/{number}"))
    new = {one for one in folder.rglob("??/*") if is_plain(one)} - before
    assert len(new) > len(SIZES)
    for path in new:
        damage(path)
    for _ in range(2):
        for number in range(len(SIZES)):
            answer = ask(use, url(server, f"/{number}"))
            assert (answer.status, answer.body) == (200, sized(number))


def test_what_cannot_be_read_is_stored_anew(cached, daemons, origin):
    server = origin(answers(by_number))
    use = cached(name="damaged")
    folder = daemons._factory.folder / "damaged"
    for number in range(len(SIZES)):
        ask(use, url(server, f"/{number}"))
    for path in folder.rglob("??/*"):
        if is_plain(path):
            path.chmod(0o600)  # a test before may have locked it up
            cut_short(path)
    for number in range(len(SIZES)):
        ask(use, url(server, f"/{number}"))
        assert said(ask(use, url(server, f"/{number}"))) == "hit"


@pytest.mark.parametrize("name", ["ledger", "claims"])
@pytest.mark.parametrize("damage", [empty, fill, remove])
def test_the_books_can_be_lost(cached, daemons, origin, name, damage):
    server = origin(answers(by_number))
    use = cached(name="books")
    path = daemons._factory.folder / "books" / name
    for number in range(4):
        assert ask(use, url(server, f"/{number}")).body == sized(number)
        if path.exists():
            damage(path)
    eventually(lambda: said(ask(use, url(server, "/3"))) == "hit", "it is stored again")


def test_files_of_others_in_the_folder_are_left_alone(start, origin):
    server = origin(answers(by_number))
    use = start("loop")
    ask(use, url(server, "/1"))
    use.daemon.stop()
    for room in ("00", "zz"):
        (start.folder / room).mkdir(exist_ok=True)
        for name in ("letter.txt", "0" * 64, "f" * 64 + ".new", "-rf"):
            (start.folder / room / name).write_bytes(b"mine")
    (start.folder / "mine").write_bytes(b"mine")
    use = start("loop")
    assert said(ask(use, url(server, "/1"))) == "hit"
    assert (start.folder / "zz" / "letter.txt").read_bytes() == b"mine"
