"""Tell who may use the proxy: Basic authentication (RFC 7617, RFC 9110 11.7).

The rule of the file: a user of the proxy is asked for with 407 and Proxy-Authorization,
and is nobody's business behind it; a user of the origin is asked for with 401 and passes
through us. The two never stand for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.handlers.http.credentials import Credentials, credentials_in
from superd.handlers.http.passwords import Passwords

if TYPE_CHECKING:
    from collections.abc import Sequence


class Users:
    """Those in a file of `user:hash` lines, read again when it has changed."""

    def __init__(self, path: str, realm: str) -> None:
        """Read the file. Raises SetupError."""
        self._passwords = Passwords(path, realm, "proxy")
        self.challenge = self._passwords.challenge
        """The value of Proxy-Authenticate."""

    @staticmethod
    def read(values: Sequence[bytes]) -> Credentials | None:
        """Read every value of Proxy-Authorization: who somebody says to be."""
        return credentials_in(values)

    def knows(self, who: Credentials) -> bool:
        """Tell at once whether this password was found right already, and still is."""
        return self._passwords.knows(who)

    def check(self, who: Credentials) -> bool:
        """Tell whether the password is right, after knows() did not.

        It takes as long as a hash does: where others wait it is for a thread.
        """
        return self._passwords.check(who)
