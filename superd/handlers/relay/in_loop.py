"""Relay in an event loop: find a backend, connect, and let both_ways.py do the rest.

The rule of the file: nobody is held up. Names are looked up by a few threads, and what
waits is a task. Only serve() loads this.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from select import POLLERR, POLLOUT
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from superd.handlers import exits, stdio
from superd.handlers.relay import lookup, opening, proxy_protocol, resetting
from superd.handlers.relay.backends import Search
from superd.handlers.relay.both_ways import both_ways
from superd.handlers.relay.plan import plan_of
from superd.handlers.relay.story import STOPPED, Story, peer_of
from superd.handlers.relay.watching import Watcher, ready

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from superd.handlers.options import Options
    from superd.handlers.relay.addresses import Backend, Target
    from superd.handlers.relay.plan import Plan
    from superd.streams.reader import Reader
    from superd.streams.writer import Writer

_T = TypeVar("_T")
LOOKUPS: Final = 8
"""Names that are looked up at once; the others wait, each up to its own deadline."""
FRESH: Final = 1.0
"""Seconds that addresses are kept: a thousand connections at once ask once."""
_GOING: Final = 0.2
"""As redirect.py's _MOMENT."""
_SOON: Final = 0.05
"""Seconds to connect after which it is seen whether the peer is still there."""


async def redirect(reader: Reader, writer: Writer, options: Options) -> int:
    """Find a backend and relay; returns the exit code."""
    try:
        if not options["to"]:
            await _let_go(reader)
        return await _redirect(writer, plan_of(options))
    except (Exception, asyncio.CancelledError):
        _reset_peer(writer)
        raise


async def _redirect(writer: Writer, plan: Plan) -> int:
    began = monotonic()
    environment = writer.get_extra_info("environment", {})
    names = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    ends = proxy_protocol.ends_of(environment, *names)
    hello = proxy_protocol.header(plan.proxy_protocol, ends)
    search = Search(plan.backends, began, began + plan.connect)
    peer = writer.get_extra_info("socket")
    opened = await _while_there(peer, _open(search, names[1], hello))
    name = peer_of(environment, names[0])
    if opened is None:
        stdio.log(f"redirect: peer={name or '-'} no backend: {search}")
        _reset_peer(writer)
        return exits.TEMPORARY
    backend, sock = opened
    story = Story(name, backend.text, began, told=plan.log)
    with sock:
        try:
            await writer.flush(plan.idle)
            how = await both_ways(peer, sock, story, plan.idle, plan.half_closed)
        except asyncio.CancelledError:
            story.end(STOPPED)
            raise
    return story.end(how)


async def _cancel(*tasks: asyncio.Task[Any]) -> list[Any]:
    """End tasks; returns what they gave all the same."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def _reset_peer(writer: Writer) -> None:
    resetting.reset_peer(writer.get_extra_info("socket"))


async def _let_go(reader: Reader) -> None:
    """Raise ConnectionError where the peer is about to go: as redirect.py does."""
    deadline = monotonic() + _GOING
    with suppress(TimeoutError):
        while await reader.read(stdio.CHUNK, deadline):
            pass


async def _while_there(peer: socket.socket, work: Awaitable[_T]) -> _T:
    """Wait for the work; PeerGone when the peer resets meanwhile."""
    loop = asyncio.get_running_loop()

    def look(fd: int, events: int) -> None:
        watcher.unregister(fd)  # POLLHUP: it has said all, and may still listen
        if events & POLLERR:
            presence.reschedule(loop.time())

    watcher = Watcher(look)
    # Most backends answer before it would be worth a look.
    timer = loop.call_later(_SOON, watcher.register, peer.fileno(), 0)
    try:
        async with asyncio.timeout(None) as presence:
            return await work
    except TimeoutError:
        raise exits.PeerGone("ECONNRESET") from None
    finally:
        timer.cancel()
        watcher.close()


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
    if len(targets) == 1:
        return await _connect(targets[0])
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
    while True:
        sock, code = opening.begin(target)
        try:
            if code == errno.EAGAIN and target.family == socket.AF_UNIX:
                sock.close()
                await asyncio.sleep(opening.FULL_AGAIN)
                continue
            if code == errno.EINPROGRESS:
                code = await _outcome(sock)
            opening.raise_errno(code)
            return opening.settle(sock)
        except BaseException:
            sock.close()
            raise


async def _outcome(sock: socket.socket) -> int:
    """Wait until a connect(2) is decided; returns its errno."""
    # On this machine it is, as soon as connect(2) is back.
    if not stdio.wait(sock.fileno(), POLLOUT, 0.0):
        await ready(sock.fileno(), POLLOUT)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


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
