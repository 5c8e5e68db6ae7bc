"""Do what takes its time in a thread, while the event loop serves others.

The rule of the file: the threads are ours and not the loop's, so that a process which goes
on after a connection can end them, and begin again with the next.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 4
"""Hashes of passwords take all of a processor each."""
BUSY: Final = 32
"""Pieces of work that wait or run, beyond which a peer's is better refused: the peer has
gone before its turn comes, and its connection is one that others do not get."""
_pools: list[ThreadPoolExecutor] = []
_begun: set[asyncio.Future[Any]] = set()


def begin(work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Have it done; the result is to be waited for."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(THREADS, "proxy"))
    future = asyncio.get_running_loop().run_in_executor(_pools[0], work, *args)
    _begun.add(future)
    future.add_done_callback(_begun.discard)
    return future


def is_busy() -> bool:
    """Tell whether what is begun now would wait for long."""
    return len(_begun) >= BUSY


def rest() -> None:
    """End the threads, when they have done what was begun."""
    while _pools:
        _pools.pop().shutdown()
