"""Play the servers behind a proxy: each connection is one play, a function of the test.

The rule of the file: an origin reads as the strictest server does. What is no well-formed
HTTP/1.1 request with one Host and one framing is a fault of the proxy; the fault is kept,
the connection closed, and the test fails when the origin is closed.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from typing import NamedTuple

DEADLINE = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LINGER_NOT = struct.pack("ii", 1, 0)

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?")


class Fault(Exception):  # noqa: N818  what a proxy did, no error of ours
    """What came is no well-formed request."""


class Over(Exception):  # noqa: N818  the usual end of a play
    """The other side has closed, or reset, or the test is at its end."""


class Request(NamedTuple):
    """One request as it arrived: nothing is folded, trimmed or put in another case."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    head: bytes
    connection: int
    """The number of the connection it came on, from 0."""

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


class Connection:
    """The origin's end of one connection."""

    def __init__(self, sock, number, origin):
        self.sock = sock
        self.number = number
        self.origin = origin
        self.got = b""
        """Every byte that came."""
        self._rest = b""

    def read(self, size=1 << 16):
        """Read what comes; raises Over at the end."""
        try:
            data = self._rest or self.sock.recv(size)
        except OSError as error:
            raise Over from error
        if not self._rest:
            self.got += data
        self._rest = b""
        if not data:
            raise Over
        return data

    def read_to_end(self):
        """Read on until the other side has no more to say."""
        parts = []
        try:
            while True:
                parts.append(self.read())
        except Over:
            return b"".join(parts)

    def until(self, end):
        data = b""
        while end not in data:
            data += self.read()
        found, _, self._rest = data.partition(end)
        return found

    def exactly(self, size):
        data = b""
        while len(data) < size:
            data += self.read()
        self._rest = data[size:]
        return data[:size]

    def head(self):
        """Read the head of a request; its body is left."""
        head = self.until(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        matched = _LINE.fullmatch(line)
        if matched is None:
            raise Fault(f"request line {line[:200]!r}")
        fields = [_field(one) for one in lines]
        request = Request(
            matched[1], matched[2], fields, b"", [], head + b"\r\n\r\n", self.number
        )
        if len(request.all("host")) != 1 and request.method != b"CONNECT":
            raise Fault(f"not one Host: {head[:300]!r}")
        sizes, codings = request.all("content-length"), request.all("transfer-encoding")
        if len(sizes) + len(codings) > 1:
            raise Fault(f"two framings: {head[:300]!r}")
        if codings and codings != [b"chunked"]:
            raise Fault(f"coding {codings}")
        if sizes and not re.fullmatch(rb"[0-9]{1,18}", sizes[0]):
            raise Fault(f"size {sizes}")
        return request

    def body(self, request):
        """Read its body."""
        if request.all("transfer-encoding"):
            parts = []
            while size := self._chunk_size():
                parts.append(self.exactly(size))
                if self.exactly(2) != b"\r\n":
                    raise Fault("no end of a chunk")
            trailers = []
            while line := self.until(b"\r\n"):
                trailers.append(_field(line))
            return request._replace(body=b"".join(parts), trailers=trailers)
        size = int((request.all("content-length") or [b"0"])[0])
        return request._replace(body=self.exactly(size))

    def _chunk_size(self):
        line = self.until(b"\r\n")
        matched = _CHUNK.fullmatch(line)
        if matched is None:
            raise Fault(f"chunk size {line[:100]!r}")
        return int(matched[1], 16)

    def request(self):
        """Read a whole request and note it."""
        request = self.body(self.head())
        self.origin.note(request)
        return request

    def send(self, data):
        """Send; raises Over where nobody takes it."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Over from error

    def half_close(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Over from error

    def reset(self):
        """Vanish with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        raise Over

    def wait_gone(self):
        """Wait until the other side has closed; what still comes is dropped."""
        while True:
            self.read()

    def pause(self, seconds):
        """Wait; raises Over when the other side closes meanwhile."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._rest = self.read()


class Origin:
    """A listening server; its n-th connection is played by the n-th play, or the last."""

    def __init__(self, *plays, host="127.0.0.1"):
        self._plays = plays
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.port = self._listener.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.faults: list[str] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def authority(self):
        return f"{self.host}:{self.port}"

    def url(self, path="/"):
        return f"http://{self.authority}{path}"

    def _accept(self):
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return  # closed: the test is over
            sock.settimeout(DEADLINE * 2)
            number = len(self.connections)
            connection = Connection(sock, number, self)
            with self._changed:
                self.connections.append(connection)
                self._changed.notify_all()
            play = self._plays[min(number, len(self._plays) - 1)]
            thread = threading.Thread(target=self._play, args=(play, connection))
            with self._changed:  # who has seen the play begin finds it in join()
                thread.start()
                self._threads.append(thread)

    def _play(self, play, connection):
        try:
            play(connection)
        except Over:
            pass
        except Fault as error:
            self.faults.append(str(error))
        except Exception as error:  # noqa: BLE001  a thread's end tells nobody
            self.faults.append(f"{type(error).__name__}: {error}")
        finally:
            connection.sock.close()

    def note(self, request):
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _wait(self, condition):
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.requests
        return True

    def wait_requests(self, count):
        """Wait until that many have come whole."""
        self._wait(lambda: len(self.requests) >= count)
        return self.requests

    def wait_connections(self, count):
        """Wait until that many have been opened."""
        self._wait(lambda: len(self.connections) >= count)

    @property
    def last(self):
        """The last request that came."""
        return self.wait_requests(1)[-1]

    @property
    def received(self):
        """Every byte that came, on whichever connection."""
        return b"".join(one.got for one in self.connections)

    def join(self):
        """Wait until every play has come to its own end."""
        until = time.monotonic() + DEADLINE
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0, until - time.monotonic()))
            assert not thread.is_alive(), "a play does not end"

    def close(self):
        """End every play and wait for its end; twice is once."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)  # what close() alone leaves in accept
        self._accepting.join(DEADLINE)
        self._listener.close()
        for one in self.connections:
            try:
                one.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended
        self.join()


def _field(line):
    matched = _FIELD.fullmatch(line)
    if matched is None:
        raise Fault(f"field {line[:200]!r}")
    return matched[1], matched[2].strip(b" \t")


# -- plays ----------------------------------------------------------------------------


def answers(*replies):
    """Answer one request after the other; the last reply is for all that follow."""

    def play(connection):
        count = 0
        while True:
            request = connection.request()
            reply = replies[min(count, len(replies) - 1)]
            connection.send(reply(request) if callable(reply) else reply)
            count += 1

    return play


def closes(*pieces):
    """Read one request, send the pieces, and close in order."""

    def play(connection):
        connection.request()
        for piece in pieces:
            connection.send(piece)
        connection.half_close()
        connection.wait_gone()

    return play


def resets(*pieces):
    """Read one request, send the pieces, and reset."""

    def play(connection):
        connection.request()
        for piece in pieces:
            connection.send(piece)
        connection.reset()

    return play


def endless(start, piece, limit=64 << 20):
    """Read one request, and send the piece without an end; at most `limit` bytes of it."""

    def play(connection):
        connection.request()
        connection.send(start)
        block = piece * max(1, 65536 // len(piece))
        for _ in range(limit // len(block)):
            connection.send(block)
        connection.wait_gone()

    return play


def slow(start, piece, every=0.2):
    """Read one request, and send the piece again and again, with a pause before each."""

    def play(connection):
        connection.request()
        connection.send(start)
        while True:
            connection.pause(every)
            connection.send(piece)

    return play


def silent(connection):
    """Read all, say nothing."""
    connection.wait_gone()


def reply(body=b"ok", *lines, status="200 OK", version="1.1"):
    """Spell a reply whose body has a size."""
    fields = [*lines, f"Content-Length: {len(body)}"]
    return _spell(version, status, fields) + body


def chunked(*pieces, lines=(), trailers=(), status="200 OK"):
    """Spell a reply in chunks."""
    head = _spell("1.1", status, [*lines, "Transfer-Encoding: chunked"])
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + b"0\r\n" + _lines(trailers) + b"\r\n"


def bare(*lines, status="200 OK", version="1.1"):
    """Spell a head and nothing else."""
    return _spell(version, status, lines)


def _spell(version, status, fields):
    return f"HTTP/{version} {status}\r\n".encode() + _lines(fields) + b"\r\n"


def _lines(fields):
    return "".join(f"{field}\r\n" for field in fields).encode("latin-1")
