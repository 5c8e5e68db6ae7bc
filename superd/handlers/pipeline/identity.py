"""Load a certificate, its key and the CA: what one end of TLS is, and whom it believes.

The rule of the file: TLS 1.3 and nothing before it, the other end always shows a
certificate, and only the CA that is named here makes it valid, none of the system.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from typing import Final

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_LARGEST: Final = 1 << 20


class IdentityError(Exception):
    """A file is not what it has to be; `field` is certificate, key or ca."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class Identity:
    """What we show at either end of TLS; the key may be in the certificate's file."""

    def __init__(self, certificate: str, key: str, ca: str) -> None:
        self._paths = (certificate, key or certificate)
        self._ca = _read("ca", ca)
        self.fingerprint = fingerprint(_first(_read("certificate", certificate)))
        secret = _read("key", key or certificate, private=True)
        if "PRIVATE KEY-----" not in secret:
            raise IdentityError("key", f"{key or certificate} has no key in PEM form")
        if "ENCRYPTED" in secret:
            raise IdentityError(
                "key", f"{key or certificate} has a passphrase, and nobody to type it"
            )
        self.server()

    def server(self) -> ssl.SSLContext:
        """Return what an end that was connected to needs."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # each connection is its own; nothing is resumed
        return context

    def client(self, *, check_name: bool) -> ssl.SSLContext:
        """Return what an end that connects needs; a name is one of a host."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = check_name
        return context

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        # Set by Python up to 3.11 with OpenSSL 3: a cut would read as an end.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        try:
            context.load_verify_locations(cadata=self._ca)
        except ssl.SSLError:
            raise IdentityError("ca", "has a certificate that cannot be read") from None
        try:
            # Without a function OpenSSL would ask the terminal.
            context.load_cert_chain(*self._paths, password=str)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise IdentityError(
                    "key", "is not the key of the certificate"
                ) from None
            raise IdentityError(
                "certificate", f"it or its key cannot be read: {error.reason}"
            ) from None
        return context


def fingerprint(certificate: bytes) -> str:
    """Return what tells one certificate from all others: SHA-256 of its DER form."""
    return hashlib.sha256(certificate).hexdigest()


def _read(field: str, path: str, *, private: bool = False) -> str:
    if not path:
        raise IdentityError(field, "no file; TLS needs a certificate, its key and a CA")
    try:
        with open(path, encoding="latin-1") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LARGEST)
    except OSError as error:
        raise IdentityError(field, f"{path}: {error.strerror}") from None
    if private and stat.S_IMODE(mode) & 0o007:
        raise IdentityError(
            field, f"{path} is open to everybody; chmod o= takes that away"
        )
    if not private and _BEGIN not in text:
        raise IdentityError(field, f"{path} has no certificate in PEM form")
    return text


def _first(text: str) -> bytes:
    """Return the first certificate of a file, which is its owner's: others sign it."""
    body = text[text.index(_BEGIN) :].partition(_END)[0]
    try:
        return ssl.PEM_cert_to_DER_cert(body + _END)
    except ValueError:
        raise IdentityError("certificate", "is not in PEM form") from None
