"""Keep what is to be told of one connection, and tell it in one line at its end.

The rule of the file: how a connection ended is one word of this table, and the word says
what the exit code is.
"""

from __future__ import annotations

from time import monotonic

from superd.handlers import exits, stdio

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

CLOSED: Final = "closed"
PEER_RESET: Final = "peer-reset"
BACKEND_RESET: Final = "backend-reset"
IDLE: Final = "idle"
PEER_STALLED: Final = "peer-stalled"
STOPPED: Final = "stopped"

EXITS: Final = {
    CLOSED: exits.OK,
    PEER_RESET: exits.OK,
    BACKEND_RESET: exits.TEMPORARY,
    IDLE: exits.OK,
    PEER_STALLED: exits.SLOW,
    STOPPED: exits.OK,
}


class Reset(Exception):  # noqa: N818  what happened, and to whom
    """One side has reset its connection; the text is how that ends ours."""


class Tally:
    """What has moved between two sides."""

    def __init__(self) -> None:
        self.up = self.down = 0
        """Bytes to the backend and to the peer, as far as their kernels have them."""
        self.answered = False
        """The backend has said its end, and the peer was told."""


class Story(Tally):
    """The connection between a peer and a backend, so far."""

    def __init__(self, peer: str, backend: str, began: float, *, told: bool) -> None:
        super().__init__()
        self._head = f"redirect: peer={peer or '-'} backend={backend}"
        self._began = began
        self._told = told

    def end(self, how: str) -> int:
        """Tell it, and return the exit code."""
        if self._told:
            seconds = monotonic() - self._began
            stdio.log(
                f"{self._head} up={self.up} down={self.down}"
                f" seconds={seconds:.3f} end={how}"
            )
        # What it would not hear after its own end is the peer's trouble, no failure.
        return exits.OK if self.answered and how == BACKEND_RESET else EXITS[how]


def peer_of(environment: Mapping[str, str], name: Any) -> str:
    """Spell the peer as one word: by the environment, else by its socket's name."""
    host = environment.get("TCPREMOTEIP") or environment.get("REMOTE_ADDR", "")
    port = environment.get("TCPREMOTEPORT", "")
    if not host and isinstance(name, tuple):
        host, port = str(name[0]).removeprefix("::ffff:"), str(name[1])
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
