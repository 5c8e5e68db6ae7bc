"""Prove to each other that one has the key, and seal what is said afterwards.

Both send a nonce of 256 bits; each proves the key by HMAC-SHA256 over its role and both
nonces. The roles differ, so that no proof can be sent back as one's own. Of the same
comes the key of the session, which seals every message with its direction and number:
who listens on the way can neither change one nor send it again.

The rule of the file: keys are compared in constant time, and neither they nor a token
are ever sent as they are.
"""

from __future__ import annotations

import hmac
import os
import stat
from typing import Final

from superd.handlers.exits import SetupError

NONCE: Final = 32
TOKEN: Final = 16
SEAL: Final = 16
TOKEN_LIFE: Final = 10.0
"""Seconds in which a token must have been used."""
NO_KEY: Final = b"by TLS alone"
"""What stands for the key where certificates have told who is who, and it hides nothing:
the same is said then, within TLS."""
CALLER: Final = b"caller"
AGENT: Final = b"agent"
_SHORTEST: Final = 16


def read_key(path: str) -> bytes:
    """Read the shared key: the bytes of a file that only its owner and group may read."""
    if not path:
        raise SetupError("option --key: no key file; 32 random bytes make a good one")
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(4096).strip()
    except OSError as error:
        raise SetupError(f"option --key: {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o007:
        raise SetupError(
            f"option --key: {path} is open to everybody; chmod o= takes that away"
        )
    if len(key) < _SHORTEST:
        raise SetupError(f"option --key: {path} has less than {_SHORTEST} bytes")
    return key


def nonce() -> bytes:
    """Return a number that is used once."""
    return os.urandom(NONCE)


def prove(key: bytes, role: bytes, caller: bytes, agent: bytes) -> bytes:
    """Return the proof of one side: the key, its role, both nonces."""
    return _mac(key, b"superd-pipe 1", role, caller, agent)


def is_proof(
    given: bytes, key: bytes, role: bytes, caller: bytes, agent: bytes
) -> bool:
    """Tell whether it is that side's proof."""
    return hmac.compare_digest(given, prove(key, role, caller, agent))


def session_key(key: bytes, caller: bytes, agent: bytes) -> bytes:
    """Return the key that seals this conversation alone."""
    return _mac(key, b"superd-pipe 1 session", caller, agent)


def seal(key: bytes, role: bytes, number: int, payload: bytes) -> bytes:
    """Return the seal of the message that `role` sends as its `number`-th."""
    return _mac(key, b"message", role, b"%d" % number, payload)[:SEAL]


def hide_token(key: bytes, side: str, token: bytes) -> bytes:
    """Hide a token from listeners, and show it again: a pad that is used once."""
    pad = _mac(key, b"token", side.encode())
    return bytes(a ^ b for a, b in zip(token, pad, strict=False))


def _mac(key: bytes, *parts: bytes) -> bytes:
    # With the length before each part, or two lists could be the same text.
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(key, text, "sha256")
