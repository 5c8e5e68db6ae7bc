"""Read who somebody says to be: HTTP Basic authentication (RFC 7617)."""

from __future__ import annotations

from binascii import Error, a2b_base64
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.http.request import Request

_LONGEST: Final = 1024
"""Bytes of user and password: a hash of more is work for nothing."""


class Credentials(NamedTuple):
    """Who somebody says to be."""

    user: bytes
    password: bytes


def credentials_of(request: Request) -> Credentials | None:
    """Read the Authorization field; None if it is none that we ask for."""
    return credentials_in(request.values(b"authorization"))


def credentials_in(values: Sequence[bytes]) -> Credentials | None:
    """Read every value of a field; None if they are not one that we ask for."""
    if len(values) != 1:
        return None
    scheme, _, text = values[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        plain = a2b_base64(text.strip(b" "), strict_mode=True)
    except Error:
        return None
    user, colon, password = plain.partition(b":")
    if not colon or not user or b"\0" in plain or len(plain) > _LONGEST:
        return None
    return Credentials(user, password)
