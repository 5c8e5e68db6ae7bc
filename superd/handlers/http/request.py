"""Read the head of a request strictly (RFC 9112).

The rule of the file: what two readers could read differently is refused, not guessed;
that is how requests are smuggled. Fields are parsed by llhttp (httptools), the parser of
Node.js. What it leaves to us is here: where a head ends, its limits, its request line (it
would take two spaces, HTTP/0.9 and RTSP), exactly one Host, and which codings we know.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from superd.handlers.http.refusal import Refused

if TYPE_CHECKING:
    Fields = dict[bytes, list[bytes]]

_ALNUM = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN: Final = _ALNUM + b"!#$%&'*+-.^_`|~"
_DIGITS: Final = b"0123456789"
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_VALUE: Final = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])")
"""A request line with nothing to say against it."""
_USUAL_HOST: Final = re.compile(rb"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*(?::[0-9]{1,4})?")
_VERSION: Final = 8
_NOTHING: Final[list[bytes]] = []


class Limits(NamedTuple):
    """What a head may be at most."""

    line: int = 8192
    """Bytes of a request line: RFC 9112 3 recommends at least 8000."""
    head: int = 32768
    fields: int = 100


class Request(NamedTuple):
    """One head. Field names are lower case."""

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    length: int | None
    """Bytes of the body that follows; None: it is chunked."""

    def values(self, name: bytes) -> list[bytes]:
        """Return every value of a field, in the order they came."""
        return self.fields.get(name, _NOTHING)

    def options(self, name: bytes) -> set[bytes]:
        """Return the members of a comma-separated field, in lower case."""
        values = self.fields.get(name)
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

    __slots__ = ("_before", "_buffer", "_fresh", "_limits", "_line_end", "_seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._before: tuple[bytes, Request] | None = None
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

    @property
    def size(self) -> int:
        """Bytes that have come and were not taken out."""
        return len(self._buffer)

    def take(self) -> bytes:
        """Take out all that has come, where it is no head but a body."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def next_head(self) -> bytes | None:
        """Take the next head out, without its empty line; None: more bytes needed.

        Raises Refused as soon as the bytes so far cannot become a good head. Every limit
        is looked at in the order of the bytes, so that how they were cut into packets
        changes nothing.
        """
        buffer = self._buffer
        if not self._seen and (head := self._whole_head()) is not None:
            return head
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

    def parse(self, head: bytes) -> Request:
        """Read a head, as parse_head does.

        Most peers send the same fields with each request; they are read once.
        """
        line, _, rest = head.partition(b"\r\n")
        if self._before is not None and self._before[0] == rest:
            method, target, minor = _parse_line(line)
            before = self._before[1]
            if before.minor == minor:
                return before._replace(method=method, target=target)
        request = parse_head(head, self._limits)
        self._before = rest, request
        return request

    def _whole_head(self) -> bytes | None:
        """Take the next head out if it is here as a whole and there is nothing to say.

        What it gives is what going line by line would give.
        """
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if (
            end <= 0
            or end + 2 > self._limits.head
            or buffer.find(b"\r\n", 0, end + 2) > self._limits.line
        ):
            return None
        head = bytes(buffer[:end])
        if head.startswith(b"\r\n") or head.count(b"\n") != head.count(b"\r\n"):
            return None
        del buffer[: end + 4]
        self._begin()
        return head

    def _check_limits(self, length: int) -> None:
        if not self._line_end and length > self._limits.line:
            raise Refused(414, "the request line is too long")
        if length > self._limits.head:
            raise Refused(431, "the header section is too long")


class _Fields:
    """What llhttp tells of them; names become lower case."""

    __slots__ = ("found", "whole")

    def __init__(self) -> None:
        self.found: Fields = {}
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field line."""
        self.found.setdefault(name.lower(), []).append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Take the empty line."""
        self.whole = True


def parse_head(head: bytes, limits: Limits) -> Request:
    """Read a head, the empty line already taken off. Raises Refused."""
    line, _, rest = head.partition(b"\r\n")
    method, target, minor = _parse_line(line)
    if rest.count(b"\n") >= limits.fields:
        raise Refused(431, f"more than {limits.fields} header fields")
    fields = _parse_fields(rest, minor)
    hosts = fields.get(b"host", _NOTHING)
    if len(hosts) > 1 or (minor and not hosts):
        raise Refused(400, "exactly one Host field is needed")
    if hosts and not is_host(hosts[0]):
        raise Refused(400, "the Host field names no host")
    return Request(method, target, minor, fields, _length_of(fields, minor))


def _parse_line(line: bytes) -> tuple[bytes, bytes, int]:
    found = _LINE.fullmatch(line)
    if found:
        return found[1], found[2], int(found[3])
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
    return method, target, 1


def _parse_fields(text: bytes, minor: int) -> Fields:
    """Have llhttp read the field lines."""
    fields = _Fields()
    # A line of our own: the peer's is read, and a CONNECT or an Upgrade would change
    # what llhttp expects behind the head.
    line = b"POST / HTTP/1.1\r\n" if minor else b"POST / HTTP/1.0\r\n"
    problem = "no end"
    try:
        HttpRequestParser(fields).feed_data(
            line + text + b"\r\n\r\n" if text else line + b"\r\n"
        )
    except HttpParserUpgrade:
        pass  # an offer that is not taken up (RFC 9110 7.8)
    except HttpParserError as error:
        fields.whole = False
        problem = str(error)
    if not fields.whole:
        _refuse_unknown_coding(fields.found)
        raise Refused(400, "the header fields are malformed", detail=problem)
    return fields.found


def _refuse_unknown_coding(fields: Fields) -> None:
    """501 for a coding that we do not know (RFC 9112 6.1), whatever else is wrong."""
    codings = b",".join(fields.get(b"transfer-encoding", _NOTHING)).lower().split(b",")
    if any(one.strip(b" \t") not in (b"", b"chunked") for one in codings):
        raise Refused(501, "a transfer coding that is not known here")


def is_host(text: bytes) -> bool:
    """Tell whether this is HOST or HOST:PORT (RFC 3986 3.2.2, narrowed to what exists)."""
    if _USUAL_HOST.fullmatch(text):
        return True
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


def _length_of(fields: Fields, minor: int) -> int | None:
    """Tell how long the body is; None if it is chunked (RFC 9112 6.3)."""
    codings = fields.get(b"transfer-encoding")
    lengths = fields.get(b"content-length")
    if codings:
        if lengths:
            raise Refused(400, "Content-Length and Transfer-Encoding together")
        if not minor:
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        if b",".join(codings).lower() != b"chunked":
            _refuse_unknown_coding(fields)
            raise Refused(400, "Transfer-Encoding other than one chunked")
        return None
    if not lengths:
        return 0
    # llhttp has seen to it: one length, of digits only, below 2**64.
    return int(lengths[0])


def _only(text: bytes, allowed: bytes) -> bool:
    """Tell whether there is text and all of it is of the allowed bytes."""
    return bool(text) and not text.translate(None, allowed)
