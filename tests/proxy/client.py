"""Talk to a proxy in raw bytes, and read its answers as the strictest client does.

The rule of the file: an answer says how its body ended. A body is whole when its framing
says so; one that was cut is seen to be cut, and nothing here hides it.
"""

from __future__ import annotations

import re
import socket
from contextlib import contextmanager, suppress
from typing import NamedTuple

DEADLINE = 10.0
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3}) ([\t\x20-\x7e\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e]*)?")


class Answer(NamedTuple):
    """One answer; the order and the spelling of its fields stay."""

    status: int
    minor: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    framing: str
    """none, sized, chunked, or close: how the end of the body is told."""
    whole: bool
    """Whether the body came to the end that its framing tells."""
    trailers: list[tuple[bytes, bytes]]
    interim: list[Answer]
    """The 1xx before it."""
    head: bytes

    def all(self, name):
        """Return every value of a field; `name` is in lower case."""
        return [value for key, value in self.fields if key.lower() == name.encode()]

    def the(self, name):
        """Return the only value of a field."""
        found = self.all(name)
        assert len(found) == 1, (name, self.head)
        return found[0]

    @property
    def names(self):
        return {key.lower().decode() for key, _ in self.fields}

    @property
    def closes(self):
        words = b",".join(self.all("connection")).lower()
        return b"close" in words or (self.minor == 0 and b"keep-alive" not in words)

    @property
    def why(self):
        """The token of RFC 9209 that says what went wrong, or nothing."""
        found = re.search(rb"error=([a-z_]+)", b",".join(self.all("proxy-status")))
        return found[1].decode() if found else ""


class Peer:
    """The client's end of one connection to a proxy."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self._rest = b""
        self.ended = False

    def send(self, data):
        """Send; a proxy that has closed already is no failure of the sender."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def half_close(self):
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        return self

    def read(self):
        """Read what is there; nothing means the end."""
        data, self._rest = self._rest, b""
        if data:
            return data
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.ended = not data
        return data

    def read_to_end(self):
        parts = []
        while data := self.read():
            parts.append(data)
        return b"".join(parts)

    def exactly(self, size):
        """Read that many bytes, or fewer where the end comes first."""
        parts, count = [], 0
        while count < size and (data := self.read()):
            parts.append(data)
            count += len(data)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]

    def until(self, end):
        """Read up to the bytes, which are dropped; None where the end comes first."""
        data = b""
        while end not in data:
            more = self.read()
            if not more:
                self._rest = data
                return None
            data += more
        found, _, self._rest = data.partition(end)
        return found

    def answer(self, method="GET"):
        """Read one final answer, and what is interim before it; None at the end."""
        interim = []
        while (one := self._one(method)) is not None:
            if one.status >= 200 or one.status == 101:
                return one._replace(interim=interim)
            interim.append(one)
        return None

    def interim(self):
        """Read one answer, be it interim."""
        return self._one("GET")

    def _one(self, method):
        head = self.until(b"\r\n\r\n")
        if head is None:
            left = self._rest
            self._rest = b""
            assert not left, f"no whole head: {left[:300]!r}"
            return None
        line, *lines = head.split(b"\r\n")
        matched = _STATUS.fullmatch(line)
        assert matched, f"no status line: {line[:300]!r}"
        status, fields = int(matched[2]), [_field(one) for one in lines]
        answer = Answer(
            status, int(matched[1]), fields, b"", "none", True, [], [], head
        )
        sizes, codings = answer.all("content-length"), answer.all("transfer-encoding")
        tunnel = method == "CONNECT" and 200 <= status < 300
        if status < 200 or status == 204 or tunnel:
            # RFC 9112 6.1 and 6.2: these have no framing field.
            assert not sizes, head
            assert not codings, head
            return answer
        assert len(sizes) + len(codings) <= 1, f"two framings: {head!r}"
        if method == "HEAD" or status == 304:
            return answer
        return self._with_body(answer, sizes, codings)

    def _with_body(self, answer, sizes, codings):
        if codings:
            assert codings == [b"chunked"], codings
            assert answer.minor == 1
            body, trailers, whole = self._chunks()
            return answer._replace(
                body=body, trailers=trailers, whole=whole, framing="chunked"
            )
        if sizes:
            assert re.fullmatch(rb"[0-9]{1,18}", sizes[0]), sizes
            body = self.exactly(int(sizes[0]))
            whole = len(body) == int(sizes[0])
            return answer._replace(body=body, whole=whole, framing="sized")
        parts, whole = [], True
        try:
            while data := self._rest or self.sock.recv(1 << 18):
                parts.append(data)
                self._rest = b""
        except ConnectionResetError:
            whole = False  # what tells a cut where only the end tells the end
        self.ended = True
        return answer._replace(body=b"".join(parts), whole=whole, framing="close")

    def _chunks(self):
        parts = []
        while (line := self.until(b"\r\n")) is not None:
            matched = _SIZE.fullmatch(line)
            assert matched, f"chunk size: {line[:100]!r}"
            size = int(matched[1], 16)
            if not size:
                trailers = []
                while line := self.until(b"\r\n"):
                    trailers.append(_field(line))
                return b"".join(parts), trailers, line is not None
            data = self.exactly(size + 2)
            if len(data) < size + 2:
                return b"".join([*parts, data]), [], False
            assert data.endswith(b"\r\n"), "no end of a chunk"
            parts.append(data[:-2])
        return b"".join(parts), [], False

    @property
    def is_closed(self):
        """Wait for the end: nothing more may come."""
        return self.read() == b""


def _field(line):
    matched = _FIELD.fullmatch(line)
    assert matched, f"no field: {line[:300]!r}"
    return matched[1], matched[2].strip(b" \t")


@contextmanager
def dialled(address):
    """Give a connection to the proxy."""
    with socket.create_connection(address, timeout=DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Peer(sock)


def request(url, *lines, method="GET", body=None, version="1.1", host=None):
    """Spell a request in absolute form; `host=False` leaves Host out."""
    if host is None:
        host = re.sub(r"^\w+://([^/?#]*).*", r"\1", url)
    fields = [] if host is False else [f"Host: {host}"]
    fields += lines
    if body is not None and not any(line.startswith("Content-Len") for line in lines):
        fields.append(f"Content-Length: {len(body)}")
    head = "".join(f"{one}\r\n" for one in [f"{method} {url} HTTP/{version}", *fields])
    return head.encode("latin-1") + b"\r\n" + (body or b"")


def ask(proxy, url, *lines, method="GET", **more):
    """Ask one question on a connection of its own."""
    return tell(proxy, request(url, *lines, method=method, **more), method=method)


def tell(proxy, data, *, method="GET"):
    """Send raw bytes on a connection of their own; returns the first answer, or None."""
    with dialled(proxy.address) as peer:
        return peer.send(data).answer(method)


def connect(authority, *lines, version="1.1"):
    """Spell a CONNECT."""
    return request(authority, *lines, method="CONNECT", host=authority, version=version)
