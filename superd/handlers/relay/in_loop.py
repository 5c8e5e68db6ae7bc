"""Relay in an event loop: the peer's streams on one side, a socket on the other.

The rule of the file: the same ends as copying.py gives, and nobody is held up: names are
looked up by a few threads, and a direction that never has to wait lets the others in, which
the peer's reader and writer see to. Only serve() loads this.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers import exits, stdio
from superd.handlers.relay import lookup, opening, proxy_protocol, resetting
from superd.handlers.relay.backends import Search
from superd.handlers.relay.plan import plan_of
from superd.handlers.relay.story import (
    BACKEND_RESET,
    CLOSED,
    IDLE,
    PEER_RESET,
    PEER_STALLED,
    STOPPED,
    Reset,
    Story,
    peer_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.options import Options
    from superd.handlers.relay.addresses import Backend, Target
    from superd.handlers.relay.plan import Plan
    from superd.handlers.streams import Reader, Writer

LOOKUPS: Final = 8
"""Names that are looked up at once; the others wait, each up to its own deadline."""
FRESH: Final = 1.0
"""Seconds that addresses are kept: a thousand connections at once ask once."""
_GOING: Final = 0.2
"""As redirect.py's _MOMENT."""


async def redirect(reader: Reader, writer: Writer, options: Options) -> int:
    """Find a backend and relay; returns the exit code."""
    try:
        if not options["to"]:
            await _let_go(reader)
        return await _redirect(reader, writer, plan_of(options))
    except (Exception, asyncio.CancelledError):
        _reset_peer(writer)
        raise


async def _redirect(reader: Reader, writer: Writer, plan: Plan) -> int:
    began = monotonic()
    environment = writer.get_extra_info("environment", {})
    names = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    ends = proxy_protocol.ends_of(environment, *names)
    hello = proxy_protocol.header(plan.proxy_protocol, ends)
    search = Search(plan.backends, began, began + plan.connect)
    opened = await _open(search, names[1], hello)
    name = peer_of(environment, names[0])
    if opened is None:
        stdio.log(f"redirect: peer={name or '-'} no backend: {search}")
        _reset_peer(writer)
        return exits.TEMPORARY
    backend, sock = opened
    story = Story(name, backend.text, began, told=plan.log)
    with sock:
        return await _Relay(reader, writer, sock, story, plan).run()


class _Relay:
    """Both directions of one connection."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        sock: socket.socket,
        story: Story,
        plan: Plan,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._sock = sock
        self._story = story
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._moved = monotonic()
        self._stalls = self._half = self._answered = self._cut = False

    async def run(self) -> int:
        """Relay up to the end; returns the exit code."""
        up = self._loop.create_task(self._up())
        down = self._loop.create_task(self._down())
        try:
            how = await self._end_of({up, down})
            if how == CLOSED:
                resetting.disarm(self._sock)
            elif how != PEER_RESET:
                if how == BACKEND_RESET:
                    await asyncio.wait({down}, timeout=resetting.LAST)
                if how != PEER_STALLED:
                    await self._deliver()
                _reset_peer(self._writer)
        except asyncio.CancelledError:
            self._story.end(STOPPED)
            raise
        finally:
            await _cancel(up, down)
        return self._story.end(how, answered=self._answered)

    async def _end_of(self, tasks: set[asyncio.Task[None]]) -> str:
        """Wait for both, or for the end of one that ends all; returns how."""
        pending = tasks
        while pending:
            patience = self._plan.half_closed if self._half else self._plan.idle
            left = self._moved + patience - monotonic()
            if left <= 0:
                return PEER_STALLED if self._stalls else IDLE
            # One timer for both, and not one for each read.
            done, pending = await asyncio.wait(
                pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if isinstance(error, Reset):
                    return str(error)
                if error is not None:
                    raise error
        return CLOSED

    async def _up(self) -> None:
        loop, sock, reader = self._loop, self._sock, self._reader
        while True:
            try:
                data = await reader.read(stdio.CHUNK)
            except OSError:
                raise Reset(PEER_RESET) from None
            if not data:
                break
            self._moved = monotonic()
            try:
                await loop.sock_sendall(sock, data)
            except OSError:
                self._cut = True
                raise Reset(BACKEND_RESET) from None
            self._moved = monotonic()
            self._story.up += len(data)
        self._half = True
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._cut = True
            raise Reset(BACKEND_RESET) from None

    async def _down(self) -> None:
        loop, sock, writer = self._loop, self._sock, self._writer
        while True:
            try:
                data = await loop.sock_recv(sock, stdio.CHUNK)
            except OSError:
                raise Reset(BACKEND_RESET) from None
            if not data:
                break
            self._moved = monotonic()
            writer.write(data)
            self._stalls = True
            try:
                await writer.drain()
            except OSError:
                raise Reset(PEER_RESET) from None
            self._stalls = False
            self._moved = monotonic()
            self._story.down += len(data)
        if self._cut:
            return  # the error was told to the write, and to us it looks like an end
        self._half = self._answered = True
        writer.write_eof()

    async def _deliver(self) -> None:
        """Give the peer what the backend had said: what is unsent dies with a reset."""
        sock = self._writer.get_extra_info("socket")
        deadline = monotonic() + resetting.LAST
        while _has_unsent(sock) and monotonic() < deadline:  # noqa: ASYNC110  no event
            await asyncio.sleep(resetting.LOOK)


async def _cancel(*tasks: asyncio.Task[Any]) -> list[Any]:
    """End tasks; returns what they gave all the same."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def _reset_peer(writer: Writer) -> None:
    sock = writer.get_extra_info("socket")
    if sock.family != socket.AF_UNIX and sock.fileno() >= 0:
        resetting.reset(sock.fileno())


def _has_unsent(sock: socket.socket) -> bool:
    return sock.family != socket.AF_UNIX and resetting.unsent(sock.fileno()) > 0


async def _let_go(reader: Reader) -> None:
    """Raise ConnectionError where the peer is about to go: as redirect.py does."""
    deadline = monotonic() + _GOING
    with suppress(TimeoutError):
        while await reader.read(stdio.CHUNK, deadline):
            pass


# -- the backend -----------------------------------------------------------------------


async def _open(
    search: Search, own: Any, hello: bytes
) -> tuple[Backend, socket.socket] | None:
    """Connect as opening.open_backend does."""
    for backend, deadline in search.backends():
        try:
            async with asyncio.timeout(deadline - monotonic()):
                targets = await _targets_of(backend)
                opening.refuse_loop(backend, targets, own)
                sock = await race(targets)
            opening.say(sock, hello)
        except OSError as error:
            search.failed(backend, error, monotonic())
        else:
            search.found(backend)
            return backend, sock
    return None


async def race(targets: Sequence[Target]) -> socket.socket:
    """Try the targets, one more each 250 ms or as soon as one fails (RFC 8305).

    There is one at least. The socket is as opening.settle() gives it: its close resets.
    """
    queue = list(targets)
    running: set[asyncio.Task[socket.socket]] = set()
    won: list[socket.socket] = []
    error: BaseException | None = None
    ended = False
    try:
        while (queue or running) and not won:
            if queue:
                running.add(asyncio.create_task(_connect(queue.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=opening.STAGGER if queue else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception() or error
                if task.exception() is None:
                    won.append(task.result())
        ended = True
    finally:
        late = await _cancel(*running)
        won += [one for one in late if isinstance(one, socket.socket)]
        for sock in won[1:] if ended else won:
            sock.close()
    if won:
        return won[0]
    assert error is not None
    raise error


async def _connect(target: Target) -> socket.socket:
    """Connect to one address; the socket is closed if that fails."""
    loop = asyncio.get_running_loop()
    while True:
        sock, code = opening.begin(target)
        try:
            if code == errno.EAGAIN and target.family == socket.AF_UNIX:
                sock.close()
                await asyncio.sleep(opening.FULL_AGAIN)
                continue
            if code == errno.EINPROGRESS:
                code = await _outcome(loop, sock)
            opening.raise_errno(code)
            return opening.settle(sock)
        except BaseException:
            sock.close()
            raise


async def _outcome(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> int:
    """Wait until a connect(2) is decided; returns its errno."""
    decided = loop.create_future()
    loop.add_writer(sock.fileno(), _decide, decided)
    try:
        await decided
    finally:
        loop.remove_writer(sock.fileno())
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _decide(decided: asyncio.Future[None]) -> None:
    if not decided.done():
        decided.set_result(None)


async def _targets_of(backend: Backend) -> list[Target]:
    """Look a backend up, by a thread where it has a name; its deadline is around us."""
    targets = lookup.without_asking(backend)
    if targets is not None:
        return targets
    until, known = _known.get(backend.text, (0.0, []))
    if monotonic() < until:
        return known
    loop = asyncio.get_running_loop()
    targets = await loop.run_in_executor(_resolver(), lookup.ask, backend)
    if len(_known) >= _KNOWN:
        _known.clear()
    _known[backend.text] = monotonic() + FRESH, targets
    return targets


_KNOWN: Final = 64
_known: dict[str, tuple[float, list[Target]]] = {}
_resolvers: list[ThreadPoolExecutor] = []


def _resolver() -> ThreadPoolExecutor:
    """Return the threads that look names up; made with the first name."""
    if not _resolvers:
        _resolvers.append(ThreadPoolExecutor(LOOKUPS))
    return _resolvers[0]
