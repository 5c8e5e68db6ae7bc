"""Serve the files of one folder over HTTP/1.1, GET and HEAD.

The rule of the file: it only brings flags and parts together; superd/handlers/http/ has
the work, one file for each step from the bytes of a request to those of the answer.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from superd.handlers import exits
from superd.handlers.conversation import talk, talk_in_loop
from superd.handlers.http.connection import converse
from superd.handlers.http.root import Roots, open_root
from superd.handlers.http.site import Sites
from superd.handlers.options import HelpWanted, parse
from superd.handlers.run import describe, run
from superd.handlers.wire import Wire, peer_of_stdin

if TYPE_CHECKING:
    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {
    "root": {
        "type": "path",
        "default": ".",
        "help": "folder to serve",
    },
    "index": {
        "type": "list",
        "default": ["index.html"],
        "help": "names of the file that is served for a directory, the first found",
    },
    "listing": {
        "type": "bool",
        "default": False,
        "help": "show what is in a directory that has no index file",
    },
    "symlinks": {
        "type": "choice",
        "choices": ["never", "owner", "inside"],
        "default": "inside",
        "help": "links that are followed: none, those whose owner has what they lead to, "
        "or all that stay below the root",
    },
    "dotfiles": {
        "type": "bool",
        "default": False,
        "help": "serve names that begin with a dot, not only those in /.well-known/",
    },
    "world_readable": {
        "type": "bool",
        "default": True,
        "help": "serve only files that every user of this machine may read",
    },
    "vhosts": {
        "type": "bool",
        "default": False,
        "help": "serve for each host the folder of its name below the root, else default",
    },
    "precompressed": {
        "type": "bool",
        "default": True,
        "help": "serve FILE.br, FILE.zst or FILE.gz for FILE to who can read it",
    },
    "types": {
        "type": "path",
        "default": "",
        "help": "file of further media types, in the form of /etc/mime.types",
    },
    "cache_control": {
        "type": "map",
        "lone": "*",
        "default": [],
        "help": "value of Cache-Control by pattern of a name or path, the first that fits",
    },
    "headers": {
        "type": "map",
        "default": [],
        "help": "further fields for every answer",
    },
    "error_pages": {
        "type": "map",
        "default": [],
        "help": "file below the root for a status, such as 404: /404.html",
    },
    "auth": {
        "type": "table",
        "lone": "file",
        "keys": {
            "file": {
                "type": "path",
                "default": "",
                "help": "file of USER:HASH lines, bcrypt or sha512-crypt",
            },
            "realm": {
                "type": "str",
                "default": "files",
                "help": "what a browser asks the password for",
            },
        },
        "help": "ask everybody for a password",
    },
    "access_log": {
        "type": "table",
        "lone": "format",
        "keys": {
            "format": {
                "type": "choice",
                "choices": ["none", "combined", "json"],
                "default": "none",
                "help": "form of the lines",
            },
            "file": {
                "type": "path",
                "default": "",
                "help": "file to write to, else the log of the service",
            },
        },
        "help": "write a line for each request",
    },
    "timeouts": {
        "type": "table",
        "keys": {
            "head": {
                "type": "duration",
                "default": 30.0,
                "min": 0.1,
                "help": "for the whole head of a request",
            },
            "body": {
                "type": "duration",
                "default": 30.0,
                "min": 0.1,
                "help": "for the whole body of a request, which nobody reads",
            },
            "idle": {
                "type": "duration",
                "default": 5.0,
                "help": "until a further request begins",
            },
            "send": {
                "type": "duration",
                "default": 30.0,
                "min": 0.1,
                "help": "for an answer, besides its bytes at the least rate",
            },
        },
        "help": "how long a peer is waited for",
    },
    "limits": {
        "type": "table",
        "keys": {
            "line": {
                "type": "size",
                "default": 8192,
                "min": 64,
                "max": 65536,
                "help": "bytes of a request line",
            },
            "head": {
                "type": "size",
                "default": 32768,
                "min": 256,
                "max": 1048576,
                "help": "bytes of a head",
            },
            "fields": {
                "type": "int",
                "default": 100,
                "min": 1,
                "max": 10000,
                "help": "fields of a head",
            },
            "body": {
                "type": "size",
                "default": 65536,
                "max": 1073741824,
                "help": "bytes of a body that are read away",
            },
            "requests": {
                "type": "int",
                "default": 100,
                "min": 1,
                "help": "requests answered on one connection",
            },
            "rate": {
                "type": "size",
                "default": 1024,
                "min": 1,
                "help": "bytes a second that a peer must take of an answer",
            },
        },
        "help": "how much a peer may ask for",
    },
}


SITES = Sites()
ROOTS = Roots()
"""Those of an event loop: a descriptor for each connection would halve their number."""


def prepare(argv: list[str]) -> None:
    """Check the options once for all processes that are forked from this one."""
    # What is wrong with them is said to the log by main, for each connection.
    with suppress(exits.SetupError, HelpWanted):
        SITES.take(tuple(argv), parse(argv, OPTIONS, "httpd"))


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("httpd", OPTIONS, partial(_answer, tuple(argv)), argv)


async def serve(reader: Reader, writer: Writer, options: Options) -> int:
    """Serve the connection in an event loop."""
    # All connections of a worker have the same options.
    site = SITES.take(id(options), options)
    try:
        root = ROOTS.take(options["root"])
    except OSError as error:
        raise exits.SetupError(f"option --root: {describe(error)}") from None
    try:
        peer = partial(_peer_in_loop, writer)
        talk = converse(site, root.fd, peer, reader.is_retiring)
        return await talk_in_loop(talk, reader, writer)
    finally:
        ROOTS.give_back(root)


def _answer(argv: tuple[str, ...], options: Options) -> int:
    site = SITES.take(argv, options)
    try:
        root = open_root(options["root"])
    except OSError as error:
        raise exits.SetupError(f"option --root: {describe(error)}") from None
    try:
        with Wire() as wire:
            return talk(converse(site, root, peer_of_stdin), wire)
    finally:
        os.close(root)


def _peer_in_loop(writer: Writer) -> str:
    environment: dict[str, str] = writer.get_extra_info("environment", {})
    name = writer.get_extra_info("peername")
    # A unix socket's name is a text, and the peer has mostly none.
    own = str(name[0]) if isinstance(name, tuple) else ""
    return environment.get("TCPREMOTEIP", own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
