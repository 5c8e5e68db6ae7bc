"""Read one configuration file: its bytes once, from one descriptor, as checked text.

The file may be anything an operator, or somebody else, put there. Nothing here waits
for a FIFO, reads a device or follows a file that is replaced while it is read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass

from superd.config.problems import ConfigError, Place

MOST_BYTES = 1 << 20
"""5 000 services fit; a larger file is hardly a configuration."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")

# What no editor shows. NEL, LS and PS count as line ends in YAML 1.1 and in no editor,
# so that every later line number would be wrong; a lone CR likewise.
UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\r(?!\n)"
)


class UnreadableError(ConfigError):
    """A file that gives no text; `line` and `column` say where, else its beginning."""

    def __init__(self, text: str, line: int = 1, column: int = 1) -> None:
        super().__init__(text)
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file, under the name that the operator used."""

    name: str
    path: str
    text: str
    writable_by_others: bool = False

    @property
    def folder(self) -> str:
        """What relative paths in this file are relative to."""
        return os.path.dirname(self.path)

    def place(self, line: int = 1, column: int = 1) -> Place:
        """A place in this file; its beginning stands for the whole of it."""
        return Place(self.name, line, column)


def read_source(name: str) -> Source:
    """Read a file whole; raises UnreadableError."""
    # O_NONBLOCK: opening a FIFO without it waits for a writer, for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot be opened: {_reason(error)}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(
                f"is {_kind(status.st_mode)}; a configuration is a regular file"
            )
        data = _read_all(fd)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {_reason(error)}") from None
    finally:
        os.close(fd)
    loose = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return Source(name, os.path.abspath(name), decode(data), loose)


def decode(data: bytes) -> str:
    """Bytes as text: UTF-8, with or without a byte order mark; raises UnreadableError."""
    if data.startswith(UTF16_MARKS) or data[1:4:2] == b"\0\0" or data[:1] == b"\0":
        raise UnreadableError("is UTF-16 or UTF-32; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start].decode("utf-8", "replace"))
        raise UnreadableError(
            f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8",
            line,
            column,
        ) from None
    if found := UNWANTED.search(text):
        line, column = _position(text[: found.start()])
        raise UnreadableError(
            f"the invisible character {_name(found[0])} stands here; delete it",
            line,
            column,
        )
    return text


def _read_all(fd: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := os.read(fd, MOST_BYTES + 1 - size):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise UnreadableError(
                "is larger than 1 MiB; split it with include, or is it another file?"
            )
    return b"".join(parts)


def _position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _name(char: str) -> str:
    return {"\0": "NUL", "\r": "CR (a line ends with LF)"}.get(
        char, f"U+{ord(char):04X}"
    )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return "its name holds a NUL character"
    if error.errno == errno.ENXIO:
        return "it is a socket or a device; a configuration is a regular file"
    return f"{os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
