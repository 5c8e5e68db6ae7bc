"""Do what takes its time without holding up an event loop: a step of a conversation.

The rule of the file: what was begun is done to its end. A connection that goes away
meanwhile is not waited for, and what the work has open is the work's own to close.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from superd.handlers.conversation import Work

if TYPE_CHECKING:
    from collections.abc import Callable


def apart(work: Callable[[], Any]) -> Work:
    """Have `work` done here and now in a process, by a thread of an event loop."""
    return Work(work, partial(_in_thread, work))


async def _in_thread(work: Callable[[], Any]) -> Any:
    # By name: a handler that is started for each connection has no use for asyncio.
    asyncio = import_module("asyncio")
    loop = asyncio.get_running_loop()
    return await asyncio.shield(loop.run_in_executor(None, work))
