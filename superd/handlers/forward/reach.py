"""Connect to where a peer wants to go: look up, check, connect.

The rule of the file: a name is looked up once, every address that this gave is checked,
and what is connected to is the address that was checked. A second look-up between the two
could give another answer (DNS rebinding: the first is public, the next is 127.0.0.1).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.forward.guard import Guard
from superd.handlers.relay import lookup, resetting
from superd.handlers.relay.addresses import Target, spell
from superd.handlers.relay.in_loop import FRESH, race

if TYPE_CHECKING:
    from collections.abc import Callable

    Resolve = Callable[[str, int], list[Target]]
    Key = tuple[str, int]

_PORT_MAX: Final = 65535
_KNOWN: Final = 1024
"""Names that are kept; a second later none of them is good any more."""
_OUR_LACK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
THREADS: Final = 32
"""Names that are looked up at once: so many silent name servers hold up others."""
_SHOWN: Final = 4
"""Addresses that are named where none could be connected to."""
_REASONS: Final = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_terminated",
    errno.ECONNABORTED: "connection_terminated",
}
"""What else a connect(2) fails with is about the way to the address."""


class Unreachable(Exception):  # noqa: N818  most of them are no error of ours
    """There is no connection to that place, for this reason."""

    def __init__(self, status: int, problem: str, error: str, detail: str = "") -> None:
        super().__init__(problem)
        self.status = status
        """403: not allowed; 502, 504: not possible, not in time; 503: our own lack."""
        self.problem = problem
        """What was tried and why it failed."""
        self.error = error
        """An error type of Proxy-Status (RFC 9209 2.3)."""
        self.detail = detail
        """What is for the log alone, in place of the problem."""


# -- names -----------------------------------------------------------------------------


class _Look(Future[list[Target]]):
    """One look-up and how many wait for it."""

    waiting = 0


class Names:
    """The addresses of names: threads ask, and each name is asked for once at a time.

    The threads are daemons: getaddrinfo(3) has no deadline, and a process whose work is
    done does not wait for a name server. A name whose server is silent keeps one thread,
    however many ask for it.
    """

    def __init__(
        self, resolve: Resolve = lookup.addresses_of, fresh: float = FRESH
    ) -> None:
        """Take what looks a name up: it blocks, and raises OSError where there is none.

        `fresh` is how long an answer is kept, in seconds; a failure is not.
        """
        self._resolve = resolve
        self._fresh = fresh
        self._known: dict[Key, tuple[float, list[Target]]] = {}
        self._looks: dict[Key, _Look] = {}
        self._jobs: SimpleQueue[tuple[Key, _Look] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def targets_of(self, host: str, port: int) -> list[Target]:
        """Return the addresses; OSError where there is none."""
        key = host, port
        until, known = self._known.get(key, (0.0, []))
        if monotonic() < until:
            return known
        look = self._looks.get(key) or self._begin(key)
        look.waiting += 1
        try:
            await _end_of(look)
        finally:
            look.waiting -= 1
            if not look.waiting and look.cancel():
                # Nobody waits, and no thread has begun.
                self._looks.pop(key, None)
        return look.result()

    def _begin(self, key: Key) -> _Look:
        look = self._looks[key] = _Look()
        self._jobs.put((key, look))
        if len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="names", daemon=True)
            self._threads.append(thread)
            thread.start()
        return look

    def _work(self) -> None:
        """Look names up, up to the end of all; this is a thread."""
        while (job := self._jobs.get()) is not None:
            key, look = job
            if not look.set_running_or_notify_cancel():
                continue
            try:
                targets = self._resolve(*key)
            except Exception as error:  # noqa: BLE001  it is raised where it is waited for
                self._looks.pop(key, None)
                look.set_exception(error)
            else:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[key] = monotonic() + self._fresh, targets
                self._looks.pop(key, None)
                look.set_result(targets)

    def rest(self) -> None:
        """End the threads, unless one of them still asks."""
        if self._threads and not self._looks:
            self.close()

    def close(self) -> None:
        """End the threads; waits for what they do. Only tests have a need for it."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


async def _end_of(look: _Look) -> None:
    """Wait for a look-up without ending it for others, if we are cancelled."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_settle, ended)

    look.add_done_callback(tell)
    await ended


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


ANYWHERE: Final = Guard(allow_private=True)
"""For places that the operator has named, and no peer."""
NAMES: Final = Names()
"""Those of the process: its threads are started with the first name."""


# -- connections -----------------------------------------------------------------------


async def reach(
    host: str,
    port: int,
    guard: Guard,
    deadline: float,
    *,
    own: tuple[str, int] | None = None,
    names: Names = NAMES,
) -> socket.socket:
    """Connect; `deadline` is of the monotonic clock. Raises Unreachable.

    `own` is where the peer came in, which is not connected to. The socket is non-blocking,
    and closed in order by close(2).
    """
    host = host.strip("[]")
    if own and own[0]:
        guard = guard.called_at(*own)
    try:
        async with asyncio.timeout(deadline - monotonic()):
            found = await _targets_of(host, port, names)
    except TimeoutError:
        problem = f"{host}: its name was not found in time"
        raise Unreachable(504, problem, "dns_timeout") from None
    except OSError as error:
        problem = f"{host}: no address: {error.strerror or error}"
        raise Unreachable(502, problem, "dns_error") from None
    targets = lookup.interleave(_allowed(host, port, found, guard))
    where = _where(host, targets)
    try:
        async with asyncio.timeout(deadline - monotonic()):
            sock = await race(targets)
    except TimeoutError:
        problem = f"{where}: it did not answer in time"
        raise Unreachable(504, problem, "connection_timeout") from None
    except OSError as error:
        raise _judge(where, error) from None
    resetting.disarm(sock)
    return sock


def check_literal(host: str, port: int, guard: Guard) -> None:
    """Raise Unreachable for an address, however it is spelt, that is objected to.

    A name passes: this is for who has another proxy look it up.
    """
    with suppress(socket.gaierror):
        _allowed(host, port, _literal(host.strip("[]"), port), guard)


def _literal(host: str, port: int) -> list[Target]:
    """Return the target that a numeric address is; gaierror for a name."""
    return lookup.addresses_of(host, port, int(socket.AI_NUMERICHOST))


async def _targets_of(host: str, port: int, names: Names) -> list[Target]:
    """Return the addresses; a numeric one, however it is spelt, asks nobody."""
    if not 0 < port <= _PORT_MAX:
        # getaddrinfo(3) would take 65558 for 22.
        raise OSError(f"{port} is no port")
    if not host.isascii() or not host.isprintable() or not host or " " in host:
        # A NUL would end the name for the C library, but not for a rule.
        raise OSError("that is no name of a host")
    with suppress(socket.gaierror):
        return _literal(host, port)
    targets = await names.targets_of(host, port)
    if not targets:
        raise OSError("its name has no address")
    return targets


def _allowed(host: str, port: int, targets: list[Target], guard: Guard) -> list[Target]:
    """Return the targets that may be connected to. Raises Unreachable for none."""
    objections = [guard.objection(one.address[0], port) for one in targets]
    allowed = [
        one for one, objection in zip(targets, objections, strict=True) if not objection
    ]
    if not allowed:
        where = _where(host, targets[:1])
        # Which address a name has within is not for everybody to know.
        problem = f"{host} is not connected to: {objections[0]}"
        detail = f"{where} is not connected to: {objections[0]}"
        raise Unreachable(403, problem, "destination_ip_prohibited", detail)
    return allowed


def _judge(where: str, error: OSError) -> Unreachable:
    """Tell what a connection failed by."""
    code = error.errno or 0
    reason = (error.strerror or str(error)).lower()
    if code in _OUR_LACK:
        return Unreachable(503, f"{where}: {reason}", "proxy_internal_error")
    kind = _REASONS.get(code, "destination_ip_unroutable")
    return Unreachable(502, f"{where}: {reason}", kind)


def _where(host: str, targets: list[Target]) -> str:
    """Name what was asked for, and the addresses that it has."""
    tried = ", ".join(spell(*one.address[:2]) for one in targets[:_SHOWN])
    return tried if host == targets[0].address[0] else f"{host}: {tried}"
