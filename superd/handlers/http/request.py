"""Read the head of a request strictly (RFC 9112).

The rule of the file: what two readers could read differently is refused, not guessed;
that is how requests are smuggled. Wire numbers are digits and nothing else: int() takes
`+5`, `1_0` and the digits of every script.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from superd.handlers.http.refusal import Refused

LONGEST_LINE: Final = 8192
"""Bytes of a request line: RFC 9112 3 recommends at least 8000."""
LONGEST_HEAD: Final = 32768
MOST_FIELDS: Final = 100

_ALNUM = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN: Final = _ALNUM + b"!#$%&'*+-.^_`|~"
_DIGITS: Final = b"0123456789"
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_VALUE: Final = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))
_VERSION: Final = 8
_LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length: an exabyte; more is an attack on somebody's integers."""


class Request(NamedTuple):
    """One head. Field names are lower case, in the order they came."""

    method: bytes
    target: bytes
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bool
    """A body follows (or may): Content-Length is not 0, or the coding is chunked."""

    def values(self, name: bytes) -> list[bytes]:
        """Return every value of a field."""
        return [value for key, value in self.fields if key == name]

    def options(self, name: bytes) -> set[bytes]:
        """Return the members of a comma-separated field, in lower case."""
        values = self.values(name)
        if not values:
            return set()
        joined = b",".join(values).lower()
        return {word.strip(b" \t") for word in joined.split(b",")} - {b""}

    @property
    def keep_alive(self) -> bool:
        """The peer wants to go on after this request (RFC 9112 9.3)."""
        connection = self.options(b"connection")
        if b"close" in connection:
            return False
        return self.minor >= 1 or b"keep-alive" in connection


class HeadReader:
    """Collects bytes until a head is whole; keeps what follows it."""

    __slots__ = ("_buffer", "_fresh", "_line_end", "_seen")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._line_end = 0
        self._fresh = True

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer."""
        self._buffer += data

    @property
    def pending(self) -> bool:
        """Bytes of a further request have come."""
        return bool(self._buffer)

    def next_head(self) -> bytes | None:
        """Take the next head out, without its empty line; None: more bytes needed.

        Raises Refused as soon as the bytes so far cannot become a good head. Every limit
        is looked at in the order of the bytes, so that how they were cut into packets
        changes nothing.
        """
        buffer = self._buffer
        if self._fresh and buffer.startswith(b"\r\n"):
            # RFC 9112 2.2: ignore one empty line before a request.
            del buffer[:2]
            self._fresh = False
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            self._check_limits(end - 1)
            if not end or buffer[end - 1 : end] != b"\r":
                # RFC 9112 2.2 lets a server accept a bare LF; it is the commonest seam
                # of smuggling, so we do not.
                raise Refused(400, "a line ends without CR")
            if end - 1 == self._seen:
                head = bytes(buffer[: max(0, end - 3)])
                del buffer[: end + 1]
                self._begin()
                return head
            self._line_end = self._line_end or end
            self._seen = end + 1
        self._check_limits(len(buffer) - 1)
        return None

    def _check_limits(self, length: int) -> None:
        if not self._line_end and length > LONGEST_LINE:
            raise Refused(414, "the request line is too long")
        if length > LONGEST_HEAD:
            raise Refused(431, "the header section is too long")


def parse_head(head: bytes) -> Request:
    """Read a head, the empty line already taken off. Raises Refused."""
    lines = head.split(b"\r\n")
    method, target, minor = _parse_line(lines[0])
    if len(lines) - 1 > MOST_FIELDS:
        raise Refused(431, f"more than {MOST_FIELDS} header fields")
    fields = tuple(_parse_field(line) for line in lines[1:])
    request = Request(method, target, minor, fields, body=False)
    _check_host(request)
    return request._replace(body=_has_body(request))


def _parse_line(line: bytes) -> tuple[bytes, bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 3:  # noqa: PLR2004  method SP target SP version
        raise Refused(400, "the request line is not METHOD TARGET VERSION")
    method, target, version = parts
    if not _only(method, _TOKEN):
        raise Refused(400, "the method is no token")
    if not _only(target, _VISIBLE):
        raise Refused(400, "bytes in the target that have to be escaped")
    if (
        len(version) != _VERSION
        or not version.startswith(b"HTTP/")
        or version[6:7] != b"."
        or not _only(version[5:6] + version[7:8], _DIGITS)
    ):
        raise Refused(400, "the version is not HTTP/1.1")
    if version[5:6] != b"1":
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    # RFC 9110 2.5: a higher minor version is read as the highest we know.
    return method, target, min(version[7] - 0x30, 1)


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    # A name that is a token has no space before the colon (RFC 9112 5.1) and none in
    # front, which would be a continuation line (obs-fold, 5.2).
    if not colon or not _only(name, _TOKEN):
        raise Refused(400, "a header field is not NAME: VALUE")
    if value.translate(None, _VALUE):
        raise Refused(400, "control bytes in a header field")
    return name.lower(), value.strip(b" \t")


def _check_host(request: Request) -> None:
    hosts = request.values(b"host")
    if len(hosts) > 1 or (request.minor >= 1 and not hosts):
        raise Refused(400, "exactly one Host field is needed")
    if hosts and not is_host(hosts[0]):
        raise Refused(400, "the Host field names no host")


def is_host(text: bytes) -> bool:
    """Tell whether this is HOST or HOST:PORT (RFC 3986 3.2.2, narrowed to what exists)."""
    if text.startswith(b"["):
        host, bracket, port = text[1:].partition(b"]")
        good = bool(bracket) and _only(host, b"0123456789abcdefABCDEF:.")
        if port and not port.startswith(b":"):
            return False
        port = port[1:]
    else:
        host, _, port = text.partition(b":")
        good = _only(host, _ALNUM + b"-._") and b".." not in b"." + host
    return good and (
        not port or (_only(port, _DIGITS) and len(port) <= 5 and int(port) <= 65535)  # noqa: PLR2004
    )


def is_token(text: bytes) -> bool:
    """Tell whether this can be the name of a field (RFC 9110 5.6.2)."""
    return _only(text, _TOKEN)


def is_value(text: bytes) -> bool:
    """Tell whether this can be the value of a field (RFC 9110 5.5)."""
    return not text.translate(None, _VALUE)


def _has_body(request: Request) -> bool:
    lengths = request.values(b"content-length")
    codings = request.values(b"transfer-encoding")
    if codings:
        if lengths:
            raise Refused(400, "Content-Length and Transfer-Encoding together")
        if request.minor < 1:
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        coding = b",".join(codings).strip(b" \t").lower()
        if coding != b"chunked":
            chunked = coding.split(b",").count(b"chunked")
            if chunked or not coding:
                raise Refused(400, "Transfer-Encoding other than one chunked")
            raise Refused(501, "a transfer coding that is not known here")
        return True
    if not lengths:
        return False
    if len(lengths) > 1:
        raise Refused(400, "more than one Content-Length")
    if not _only(lengths[0], _DIGITS) or len(lengths[0]) > _LONGEST_LENGTH:
        raise Refused(400, "the Content-Length is no number")
    return int(lengths[0]) > 0


def _only(text: bytes, allowed: bytes) -> bool:
    """Tell whether there is text and all of it is of the allowed bytes."""
    return bool(text) and not text.translate(None, allowed)
