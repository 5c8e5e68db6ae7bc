"""Serve the files of one folder over HTTP/1.1, GET and HEAD.

The rule of the file: it only brings flags and parts together; superd/handlers/http/ has
the work, one file for each step from the bytes of a request to those of the answer.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from superd.handlers import exits
from superd.handlers.conversation import talk, talk_in_loop
from superd.handlers.http.answer import Settings
from superd.handlers.http.connection import converse
from superd.handlers.http.extra import check_cache_control, check_headers
from superd.handlers.http.root import Roots, open_root
from superd.handlers.run import describe, run
from superd.handlers.wire import Wire

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
    "world_readable": {
        "type": "bool",
        "default": True,
        "help": "serve only files that every user of this machine may read",
    },
    "dotfiles": {
        "type": "bool",
        "default": False,
        "help": "serve names that begin with a dot, not only those in /.well-known/",
    },
    "listing": {
        "type": "bool",
        "default": False,
        "help": "show what is in a directory that has no index file",
    },
    "cache_control": {
        "type": "str",
        "default": "",
        "help": "value of Cache-Control for every file, such as max-age=3600",
    },
    "headers": {
        "type": "list",
        "default": [],
        "help": "further fields for every answer, each as Name: value",
    },
    "head_timeout": {
        "type": "float",
        "default": 30.0,
        "min": 0.1,
        "help": "seconds for the whole head of a request",
    },
    "idle_timeout": {
        "type": "float",
        "default": 5.0,
        "min": 0.0,
        "help": "seconds to wait for a further request",
    },
    "max_requests": {
        "type": "int",
        "default": 100,
        "min": 1,
        "help": "requests answered on one connection",
    },
}


ROOTS = Roots()
"""Those of an event loop: a descriptor for each connection would halve their number."""


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("httpd", OPTIONS, _answer, argv)


async def serve(reader: Reader, writer: Writer, options: Options) -> int:
    """Serve the connection in an event loop."""
    try:
        root = ROOTS.take(options["root"])
    except OSError as error:
        raise exits.SetupError(f"option --root: {describe(error)}") from None
    try:
        settings = _settings(root.fd, options)
        return await talk_in_loop(converse(settings), reader, writer)
    finally:
        ROOTS.give_back(root)


def _answer(options: Options) -> int:
    try:
        root = open_root(options["root"])
    except OSError as error:
        raise exits.SetupError(f"option --root: {describe(error)}") from None
    try:
        settings = _settings(root, options)
        with Wire() as wire:
            return talk(converse(settings), wire)
    finally:
        os.close(root)


def _settings(root: int, options: Options) -> Settings:
    for name in options["index"]:
        if name in ("", ".", "..") or "/" in name:
            raise exits.SetupError(f"option --index: {name} is not the name of a file")
    return Settings(
        root=root,
        index_names=tuple(os.fsencode(name) for name in options["index"]),
        world_readable=options["world_readable"],
        head_timeout=options["head_timeout"],
        idle_timeout=options["idle_timeout"],
        max_requests=options["max_requests"],
        cache_control=check_cache_control(options["cache_control"]),
        headers=check_headers(tuple(options["headers"])),
        dotfiles=options["dotfiles"],
        listing=options["listing"],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
