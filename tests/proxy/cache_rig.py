"""Give tests of the cache a proxy that has one, and origins that count what they are asked.

The rule of the file: an origin answers by the number of the request, over all connections,
so that a test says what the second visit finds; and what is slow is held by the test, until
an event, and never by a clock.
"""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import contextmanager
from email.utils import formatdate

from proxy.client import tell
from proxy.origins import DEADLINE, reply

NOBODY = 65534
LASTING = "Cache-Control: max-age=1000"
OLD = ("Cache-Control: max-age=50", "Age: 100")
"""Stale when it comes."""
TAG = 'ETag: "a"'
NEWER = 'ETag: "b"'


def with_cache(start, daemons, *, name="cache", **more):
    """Start a proxy whose cache is the folder of that name, for all modes the same."""
    folder = prepared(daemons._factory.folder / name)
    cache = {"folder": str(folder), **more.pop("cache", {})}
    return start(cache=cache, status="/counters", **more)


def prepared(folder):
    """Make the folder of a cache, for the user that handlers of root's superd have."""
    if not folder.exists():
        folder.mkdir(mode=0o700)
        if not os.geteuid():
            os.chown(folder, NOBODY, NOBODY)
    return folder


def in_order(*replies):
    """Answer the n-th request by the n-th reply, whichever connection it is on."""
    numbers = itertools.count()

    def play(connection):
        while True:
            asked = connection.request()
            chosen = replies[min(next(numbers), len(replies) - 1)]
            connection.send(chosen(asked) if callable(chosen) else chosen)

    return play


def validates(tag, body, *lines):
    """Answer as a server that knows conditions does."""

    def answer(asked):
        if asked.all("if-none-match") == [tag.partition(": ")[2].encode()]:
            return unchanged(tag, *lines)
        return reply(body, tag, *lines)

    return answer


def unchanged(*lines):
    """Spell a 304."""
    fields = "".join(f"{one}\r\n" for one in lines)
    return f"HTTP/1.1 304 Not Modified\r\n{fields}\r\n".encode()


def by_field(name, *lines):
    """Answer with the value of a field of the request."""

    def answer(asked):
        return reply(b",".join(asked.all(name)) or b"none", *lines)

    return answer


class Gate:
    """Holds answers back until the test opens it."""

    def __init__(self):
        self._open = threading.Event()
        self.open = self._open.set

    def __call__(self, data):
        """Return a reply that comes when the gate is open."""

        def answer(asked):
            self._open.wait(DEADLINE)
            return data(asked) if callable(data) else data

        return answer

    def wait(self):
        """Wait in a play."""
        assert self._open.wait(DEADLINE)


@contextmanager
def gate():
    """Give a gate, which is open at the end: no play is left waiting."""
    one = Gate()
    try:
        yield one
    finally:
        one.open()


def said(answer):
    """Return what the cache said that it did."""
    return answer.all("cache-status")[-1].decode().partition("; ")[2]


def ago(seconds, now):
    """Spell the date of some seconds ago."""
    return formatdate(now - seconds, usegmt=True)


def url(server, path=""):
    """Return an address of a server that no other test has: its port may come again."""
    if not hasattr(server, "place"):
        server.place = f"/{os.urandom(4).hex()}"
    return server.url(server.place + path)


def asked(server, path=""):
    """Count the requests for a path."""
    path = url(server, path).removeprefix(server.url("")).encode()
    return sum(one.target == path for one in server.requests)


def counted(use):
    """Return what the proxy says that its cache did, by result."""
    text = tell(use, b"GET /counters HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("superd_proxy_cache_total"):
            found[line.split('"')[1]] = int(line.rpartition(" ")[2])
    return found


class Crowd:
    """Clients that ask at the same time, each in a thread of the test."""

    def __init__(self, count, work):
        self.answers = [None] * count
        self.errors = []
        self._work = work
        self._threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(count)
        ]
        for one in self._threads:
            one.start()

    def _run(self, number):
        try:
            self.answers[number] = self._work(number)
        except Exception as error:  # noqa: BLE001  a thread's end tells nobody
            self.errors.append(error)

    def join(self):
        """Wait for all of them; returns their answers."""
        for one in self._threads:
            one.join(DEADLINE * 2)
        assert not any(one.is_alive() for one in self._threads), "a client waits"
        assert not self.errors, self.errors
        return self.answers
