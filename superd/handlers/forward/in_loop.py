"""Serve a connection among others in the event loop of a worker.

The rule of the file: the connections of a worker share what is kept of other hosts, and a
request that was begun for one peer is never seen by another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.forward.session import Session
from superd.handlers.forward.upstream import Upstreams
from superd.handlers.relay.story import peer_of

if TYPE_CHECKING:
    from superd.handlers.forward.plan import Plan
    from superd.handlers.streams import Reader, Writer

_UPSTREAMS: Final = Upstreams()


async def serve(plan: Plan, reader: Reader, writer: Writer) -> int:
    """Serve until one side wants no more; returns the exit code."""
    # Not of the environment: it would be made for this alone.
    peer = peer_of({}, writer.get_extra_info("peername"))
    return await Session(plan, _UPSTREAMS, reader, writer, peer).run()
