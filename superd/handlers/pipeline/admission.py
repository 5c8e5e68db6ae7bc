"""Decide whether a caller may speak to this host at all: by its certificate, its key.

The rule of the file: who is not admitted hears why, in the words that it speaks, and
nothing that it says until then is obeyed.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers.exits import PeerError, SetupError, TooSlow
from superd.handlers.pipeline import auth
from superd.handlers.pipeline.agent import greet
from superd.handlers.pipeline.channel import Channel
from superd.handlers.pipeline.failure import REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from superd.handlers.pipeline.identity import Identity
    from superd.handlers.pipeline.tls import TlsStream

_MISSING: Final = 78
"""EX_CONFIG of sysexits."""
_LAST_WORD: Final = 2.0
_TLS_ONLY: Final = (
    "the service speaks TLS alone; give --tls-cert, --tls-key and --tls-ca"
)


def admit(
    sock: socket.socket, options: Mapping[str, Any]
) -> tuple[Channel, bytes, Identity | None]:
    """Return the conversation, its key, and who we are by TLS, where there is TLS.

    Raises PeerError and FrameError for a caller that is not admitted, TooSlow and
    ChannelLost for one that is gone, SetupError where files of ours are wrong.
    """
    tls, until = options["tls"], monotonic() + options["handshake"]
    identity = _identity(tls)
    line = Channel(sock)
    if identity is not None:
        stream = _secured(sock, identity, until)
        line = Channel(stream)
        _check_name(stream, tls["allow"], line)

    def read_key() -> bytes:
        try:
            return auth.read_key(options["key"])
        except SetupError:
            line.say("refused", status=_MISSING, text="this host has no key to compare")
            raise

    by_key = identity is None or bool(options["key"])
    session = greet(line, read_key if by_key else None, max(0.0, until - monotonic()))
    return line, session, identity


def _identity(tls: Mapping[str, Any]) -> Identity | None:
    if not any(tls.values()):
        return None
    from superd.handlers.pipeline.identity import (  # noqa: PLC0415
        Identity,
        IdentityError,
    )

    try:
        return Identity(tls["certificate"], tls["key"], tls["ca"])
    except IdentityError as error:
        raise SetupError(f"option --tls.{error.field}: {error}") from None


def _secured(sock: socket.socket, identity: Identity, until: float) -> TlsStream:
    from superd.handlers.pipeline.tls import NoTls, TlsError, TlsStream  # noqa: PLC0415

    stream = TlsStream(sock, identity.server(), server=True)
    try:
        stream.shake_hands(until)
    except NoTls as error:
        Channel(sock).say("refused", status=REFUSED, text=_TLS_ONLY)
        _part(sock)
        raise PeerError(str(error.strerror)) from None
    except TlsError as error:
        _part(sock)
        raise PeerError(str(error.strerror)) from None
    except TimeoutError as error:
        raise TooSlow(str(error.strerror)) from None
    return stream


def _check_name(stream: TlsStream, allowed: list[str], line: Channel) -> None:
    if allowed and not stream.has_name_of(allowed):
        theirs = ", ".join(stream.names)[:200] or "none"
        text = (
            f"TLS: the names of the certificate ({theirs}) are not among those allowed"
        )
        line.say("refused", status=REFUSED, text=text)
        _part(stream)
        raise PeerError(text)


def _part(sock: socket.socket | TlsStream) -> None:
    """Let the last word arrive: what is unread at a close resets the connection."""
    with suppress(OSError):  # every errno: who is gone need not hear it
        sock.shutdown(socket.SHUT_WR)
        until = monotonic() + _LAST_WORD
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        while (left := until - monotonic()) > 0 and poller.poll(left * 1000):
            with suppress(BlockingIOError):
                if not sock.recv(4096, socket.MSG_DONTWAIT):
                    return
