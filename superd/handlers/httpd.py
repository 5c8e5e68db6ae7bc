"""Serve the files of one folder over HTTP/1.1, GET and HEAD.

The rule of the file: it only brings flags and parts together; superd/handlers/http/ has
the work, one file for each step from the bytes of a request to those of the answer.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from superd.handlers import exits
from superd.handlers.http.connection import Connection, Settings
from superd.handlers.http.files import open_root
from superd.handlers.run import describe, run
from superd.handlers.wire import Wire

if TYPE_CHECKING:
    from superd.handlers.options import Options

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


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("httpd", OPTIONS, _serve, argv)


def _serve(options: Options) -> int:
    try:
        root = open_root(options["root"])
    except OSError as error:
        raise exits.SetupError(f"option --root: {describe(error)}") from None
    for name in options["index"]:
        if name in ("", ".", "..") or "/" in name:
            os.close(root)
            raise exits.SetupError(f"option --index: {name} is not the name of a file")
    settings = Settings(
        root=root,
        index_names=tuple(os.fsencode(name) for name in options["index"]),
        world_readable=options["world_readable"],
        head_timeout=options["head_timeout"],
        idle_timeout=options["idle_timeout"],
        max_requests=options["max_requests"],
    )
    try:
        with Wire() as wire:
            return Connection(wire, settings).serve()
    finally:
        os.close(root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
