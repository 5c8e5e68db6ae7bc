"""Give each exit status of a handler its meaning: the handler's word to the master.

After OpenSSH's typed exits and djb's 100 and 111. One table; the documentation of it in
docs/handlers.md is kept by a test.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """One row: the number, its name, what it says, and what superd does about it."""

    status: int
    name: str
    sentence: str
    effect: str


DONE = 0
SETUP = 100
BUG = 101
PEER = 110
TEMPORARY = 111
SLOW = 112

TABLE = (
    Meaning(DONE, "done", "the connection was served", "success"),
    Meaning(SETUP, "setup", "the handler's own set-up is wrong", "throttle"),
    Meaning(BUG, "bug", "the handler found a fault in itself", "plain"),
    Meaning(PEER, "peer", "the peer broke the protocol", "peer"),
    Meaning(TEMPORARY, "temporary", "a system call failed, later may do", "plain"),
    Meaning(SLOW, "slow", "the peer was too slow", "peer"),
)

SIGPIPE = 13
SIGTERM = 15
NO_FAULT = {SIGPIPE: "SIGPIPE", SIGTERM: "SIGTERM"}
"""Signals that say nothing of the handler: the peer went away while it wrote to it, or
timeouts.lifetime, a stop or the operator ended it. The numbers are Linux's, everywhere."""

_BY_STATUS = {row.status: row for row in TABLE}
_PLAIN = "plain"
_PEER = "peer"


def effect_of(signal: int, status: int) -> str:
    """Say what an end means to the service: success, plain, peer or throttle."""
    if signal:
        return _PEER if signal in NO_FAULT else _PLAIN
    row = _BY_STATUS.get(status)
    return row.effect if row else _PLAIN


def describe(signal: int, status: int) -> str:
    """Spell an end for the log: `exit:0`, `exit:100(setup)`, `signal:11`."""
    if signal:
        return f"signal:{signal}"
    row = _BY_STATUS.get(status)
    if row is None or status == DONE:
        return f"exit:{status}"
    return f"exit:{status}({row.name})"
