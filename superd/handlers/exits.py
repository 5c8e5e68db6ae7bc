"""Name the exit codes by which a handler tells superd how a connection ended.

djb's numbers where he has one: 100 is permanent, 111 is temporary.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Final


OK: Final = 0
"""The connection was served; a peer that hangs up early is served too."""
SETUP: Final = 100
"""Flags or files of the handler are wrong: no connection can be served."""
BUG: Final = 101
"""The handler found a fault in itself."""
PEER: Final = 110
"""The peer broke the protocol."""
TEMPORARY: Final = 111
"""A system call failed; later it may not."""
SLOW: Final = 112
"""The peer was too slow."""


class PeerError(Exception):
    """The peer broke the protocol and was told so; the text is for the log."""


class TooSlow(Exception):  # noqa: N818  it is what the peer was
    """A deadline passed while the handler waited for the peer."""


class PeerGone(Exception):  # noqa: N818  no error: peers go
    """The peer went away while it was being written to or read from."""


class SetupError(Exception):
    """The operator's flags or files are wrong; the text says which."""
