"""Be a TCP stream by TLS, with the calls of a socket that never waits.

The rule of the file: a caller of this class waits by poll on the socket beneath. So
nothing stays behind where poll does not see it: `recv` gives all that has come, which may
be more than was asked for, and `send` has sent what it says, or raises BlockingIOError
and wants the same bytes again.

The socket beneath may have flags that are not ours, which is why ssl.SSLSocket, that
needs O_NONBLOCK, is no way: OpenSSL works on memory here, and every call on the socket
says MSG_DONTWAIT. A stream that ends without close_notify is an error (ssl.SSLSocket
takes it for an end unless told otherwise), and half a stream cannot be closed: what ends
is said in frames.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers.pipeline.identity import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from superd.handlers.pipeline.channel import Channel
    from superd.handlers.pipeline.joint import Bytes

_STEP: Final = 1 << 17
_HEAD: Final = 5
_ALERT, _HANDSHAKE = 21, 22
"""What the first record of a peer may be (RFC 8446, 5.1)."""


class TlsError(ConnectionError):
    """TLS has failed; the text says why and what to do, from our point of view."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTO, f"TLS: {text}")


class NoTls(TlsError):  # noqa: N818  what the peer speaks
    """The peer speaks something else."""


class TlsStream:
    """One connection; `shake_hands` comes first."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server: bool,
        name: str | None = None,
    ) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server, server_hostname=name
        )
        self._record = bytearray()
        self._has_begun = False
        self._unsent = bytearray()
        self._held = 0
        """Bytes of the last `send` that are encrypted, and not all sent."""

    # -- the handshake -----------------------------------------------------------------

    def shake_hands(self, until: float, channel: Channel | None = None) -> None:
        """Agree on keys and see the other's certificate, unless the channel says stop.

        Raises TlsError, NoTls, or TimeoutError at that time. A client's certificate is
        judged after its part of the handshake: a `recv` raises what comes of it.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError as error:
                with suppress(OSError):  # every errno: it is the alert, which may help
                    self._flush()
                raise TlsError(explain(error)) from None
            else:
                is_done = True
            while not self._has_flushed():
                self._wait(select.POLLOUT, until, channel)
            if is_done:
                return
            while not self._has_record():
                self._wait(select.POLLIN, until, channel)

    def _has_record(self) -> bool:
        """Take one record and no byte of the next, which may be data already."""
        try:
            while len(self._record) < (size := self._size()):
                more = self._sock.recv(size - len(self._record), socket.MSG_DONTWAIT)
                if not more:
                    raise TlsError("it has closed the connection; its log says why")
                self._record += more
                if self._record[0] not in (_ALERT, _HANDSHAKE) and not self._has_begun:
                    raise NoTls("it speaks no TLS")
        except BlockingIOError:
            return False
        self._in.write(self._record)
        self._record.clear()
        self._has_begun = True
        return True

    def _size(self) -> int:
        if len(self._record) < _HEAD:
            return _HEAD
        return _HEAD + int.from_bytes(self._record[3:_HEAD], "big")

    def _has_flushed(self) -> bool:
        try:
            self._flush()
        except BlockingIOError:
            return False
        return True

    def _wait(self, event: int, until: float, channel: Channel | None) -> None:
        poller = select.poll()
        poller.register(self._sock, event)
        if channel is not None:
            channel.watch(poller)
        left = until - monotonic()
        ready = dict(poller.poll(left * 1000)) if left > 0 else {}
        if not ready:
            raise TimeoutError(errno.ETIMEDOUT, "TLS: no end of the handshake in time")
        if channel is not None:
            channel.heed(ready)

    @property
    def fingerprint(self) -> str:
        """What the certificate of the other end is told by."""
        return fingerprint(self._tls.getpeercert(binary_form=True) or b"")

    @property
    def names(self) -> list[str]:
        """The names in the certificate of the other end: of hosts, and URIs."""
        return [name for _, name in self._names()]

    def has_name_of(self, wanted: Iterable[str]) -> bool:
        """Whether the other end has one of these; case counts in URIs alone."""
        exact = {*wanted}
        lower = {name.lower() for name in exact}
        return any(
            name in exact or (kind == "DNS" and name.lower() in lower)
            for kind, name in self._names()
        )

    def _names(self) -> list[tuple[str, str]]:
        found: Iterable[Any] = (self._tls.getpeercert() or {}).get("subjectAltName", ())
        return [(kind, name) for kind, name in found if kind in ("DNS", "URI")]

    # -- data --------------------------------------------------------------------------

    def recv(self, size: int, _flags: int = 0, /) -> bytes:
        """Return all that has come, empty at the end; see the rule of the file."""
        data = self._sock.recv(size, socket.MSG_DONTWAIT)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        parts = []
        try:
            while part := self._tls.read(_STEP):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                raise BlockingIOError(errno.EAGAIN, "no whole record") from None
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            raise TlsError(explain(error)) from None
        finally:
            # An answer of OpenSSL's own; what does not fit leaves with the next data.
            with suppress(OSError):  # every errno: reading tells it
                self._flush()
        return b"".join(parts)

    def send(self, data: Bytes, _flags: int = 0, /) -> int:
        """Send some of it; BlockingIOError: the same again, when there is room."""
        if not self._held:
            self._flush()
            try:
                self._held = self._tls.write(memoryview(data)[:_STEP])
            except ssl.SSLError as error:
                raise TlsError(explain(error)) from None
        self._flush()
        sent, self._held = self._held, 0
        return sent

    def sendmsg(self, parts: Iterable[Bytes], /) -> int:
        """Send several parts as one."""
        first, *others = parts
        return self.send(b"".join((first, *others)) if others else first)

    def _flush(self) -> None:
        """Hand what is encrypted to the kernel; BlockingIOError while it does not fit."""
        self._unsent += self._out.read()
        while self._unsent:
            sent = self._sock.send(self._unsent, socket.MSG_DONTWAIT)
            del self._unsent[:sent]

    # -- the socket beneath ------------------------------------------------------------

    def fileno(self) -> int:
        """Return what to poll; -1 once it is closed."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """Return our address."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return self._sock.getpeername()

    def setsockopt(self, level: int, name: int, value: int | bytes, /) -> None:
        """Set an option of the socket."""
        self._sock.setsockopt(level, name, value)

    def shutdown(self, how: int, /) -> None:
        """Say that this was all, by close_notify and FIN."""
        with suppress(ssl.SSLError, BlockingIOError):  # WantRead: for the other's
            self._tls.unwrap()
        with suppress(BlockingIOError):
            self._flush()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket as it is: without close_notify, which only an end has."""
        self._sock.close()


def explain(error: ssl.SSLError) -> str:
    """Say what failed and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        cure = _CURES["name" if error.verify_code in _OTHER_NAME else "here"]
        why = error.verify_message.rstrip(".")
        return f"its certificate is not valid: {why}; {cure}"
    if isinstance(error, ssl.SSLEOFError):
        return _CUT
    reason = str(error.reason or error).upper().replace(" ", "_")
    for part, text in _REASONS.items():
        if part in reason:
            return text
    return reason.lower().replace("_", " ")


_OTHER_NAME: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of x509_vfy.h."""
_CURES: Final = {
    "here": "it must be of our CA, in its time, and for this end",
    "name": "its own name after @, or as --tls-name, is right",
    "there": "it must be of the CA that is named there, in its time",
}
_CUT: Final = "the connection was cut: it ended without a word"
_REASONS: Final = {
    "UNEXPECTED_EOF": _CUT,
    "ALERT_UNKNOWN_CA": f"our certificate is of no CA known there; {_CURES['there']}",
    "ALERT_CERTIFICATE_EXPIRED": f"our certificate has expired; {_CURES['there']}",
    "ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours; give it one",
    "ALERT_UNSUPPORTED_CERTIFICATE": "our certificate is not for this end; without "
    "extendedKeyUsage, or with clientAuth and serverAuth, it is",
    "ALERT_BAD_CERTIFICATE": f"our certificate is not taken there; {_CURES['there']}",
    "ALERT_CERTIFICATE_UNKNOWN": f"our certificate is not taken; {_CURES['there']}",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has shown no certificate",
    "ALERT_PROTOCOL_VERSION": "it has no TLS 1.3, which is the least",
    "UNSUPPORTED_PROTOCOL": "it has no TLS 1.3, which is the least",
    "WRONG_VERSION_NUMBER": "it speaks no TLS",
}
"""By parts of the names of OpenSSL, whose prefixes differ between its versions."""
