"""Forward HTTP requests and tunnels for its peers: a proxy.

The rule of the file: it only brings flags and parts together; superd/handlers/forward/
has the work, and superd/handlers/cache/ that of the cache.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from importlib import import_module

from superd.handlers import exits
from superd.handlers.options import HelpWanted, parse
from superd.handlers.run import run

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Any

    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {
    "name": {
        "type": "str",
        "default": "",
        "help": "what the proxy calls itself in Via, which no other one of a chain may be "
        "called; else superd- and a number of its own",
    },
    "allow": {
        "type": "list",
        "default": [],
        "help": "where peers may go, and nowhere else: HOST, .DOMAIN, *, each with :PORT "
        "and /PATH where wanted, or ~REGEX",
    },
    "deny": {
        "type": "list",
        "default": [],
        "help": "where peers may not go, whatever allow says",
    },
    "allow_private": {
        "type": "bool",
        "default": False,
        "help": "connect to loopback, private and link-local addresses too",
    },
    "networks": {
        "type": "table",
        "keys": {
            "allow": {
                "type": "list",
                "default": [],
                "help": "networks that are connected to although they are private",
            },
            "deny": {
                "type": "list",
                "default": [],
                "help": "networks that are never connected to",
            },
        },
        "help": "addresses, judged after a name was looked up: 10.1.0.0/16",
    },
    "ports": {
        "type": "list",
        "default": ["443"],
        "help": "ports of tunnels (CONNECT): N, N-M or any",
    },
    "http_ports": {
        "type": "list",
        "default": ["80", "443", "1024-65535"],
        "help": "ports of requests: those below 1024 are mostly of other protocols",
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
                "default": "proxy",
                "help": "what a browser asks the password for",
            },
        },
        "help": "ask every peer for a password",
    },
    "forwarded": {
        "type": "choice",
        "choices": ["keep", "add", "remove"],
        "default": "keep",
        "help": "tell hosts who the peer is, in Forwarded and X-Forwarded-For",
    },
    "hide": {
        "type": "list",
        "default": [],
        "help": "fields of requests that are not passed on: User-Agent, Referer, Cookie",
    },
    "upgrade": {
        "type": "bool",
        "default": False,
        "help": "let peer and host switch to another protocol (WebSocket)",
    },
    "upstream": {
        "type": "table",
        "lone": "proxy",
        "keys": {
            "proxy": {
                "type": "str",
                "default": "",
                "help": "HOST:PORT of a proxy that requests are given to",
            },
            "except": {
                "type": "list",
                "default": [],
                "help": "what is reached without it: patterns as in allow",
            },
            "user_file": {
                "type": "path",
                "default": "",
                "help": "file with USER:PASSWORD for it",
            },
        },
        "help": "reach hosts through another proxy",
    },
    "cache": {
        "type": "table",
        "lone": "folder",
        "keys": {
            "folder": {
                "type": "path",
                "default": "",
                "made": True,
                "help": "folder of the service's user for stored answers",
            },
            "size": {
                "type": "size",
                "default": 1073741824,
                "min": 1048576,
                "help": "bytes of all stored answers; the least recently used go",
            },
            "largest": {
                "type": "size",
                "default": 67108864,
                "min": 1,
                "help": "bytes of one answer; larger ones are passed on unstored",
            },
            "collapse": {
                "type": "duration",
                "default": 5.0,
                "help": "how long a request waits for the answer to one like it",
            },
            "cookies": {
                "type": "bool",
                "default": False,
                "help": "keep Set-Cookie with an answer, for all who get that, as "
                "RFC 9111 has it; else it is for the first alone",
            },
        },
        "help": "keep answers for those who ask the same (RFC 9111)",
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
                "default": 60.0,
                "min": 0.1,
                "help": "without a byte of the body of a request",
            },
            "idle": {
                "type": "duration",
                "default": 60.0,
                "help": "until a further request begins",
            },
            "connect": {
                "type": "duration",
                "default": 10.0,
                "min": 0.1,
                "help": "for the connection to a host, the lookup of its name included",
            },
            "reply": {
                "type": "duration",
                "default": 60.0,
                "min": 0.1,
                "help": "for the head of an answer, and without a byte of its body",
            },
            "send": {
                "type": "duration",
                "default": 30.0,
                "min": 0.1,
                "help": "until a side takes any more of what it is sent",
            },
            "tunnel": {
                "type": "duration",
                "default": 600.0,
                "min": 0.1,
                "help": "without a byte either way in a tunnel",
            },
        },
        "help": "how long is waited",
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
                "default": 65536,
                "min": 256,
                "max": 1048576,
                "help": "bytes of a head, of requests and of answers",
            },
            "fields": {
                "type": "int",
                "default": 200,
                "min": 1,
                "max": 10000,
                "help": "fields of a head",
            },
            "body": {
                "type": "size",
                "default": 0,
                "help": "bytes of the body of a request; 0 is any number",
            },
            "requests": {
                "type": "int",
                "default": 1000,
                "min": 1,
                "help": "requests answered on one connection",
            },
        },
        "help": "how much a peer may ask for",
    },
    "log": {
        "type": "choice",
        "choices": ["none", "line", "json"],
        "default": "line",
        "help": "write a line for each request",
    },
    "status": {
        "type": "str",
        "default": "",
        "help": "path below which the proxy shows its own counters, such as /status",
    },
}

_plans: dict[str, Any] = {}


def prepare(argv: list[str]) -> None:
    """Load everything and check the options once for all that are forked from here."""
    # By name, here and below: what checks options has no use for asyncio.
    import_module("superd.handlers.forward.alone")
    # What is wrong with them is said to the log by main, for each connection.
    with suppress(exits.SetupError, HelpWanted):
        _plan(tuple(argv), parse(argv, OPTIONS, "proxy"))


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("proxy", OPTIONS, partial(_serve, tuple(argv)), argv)


async def serve(reader: Reader, writer: Writer, options: Options) -> int:
    """Serve the connection in an event loop."""
    plan = _plan(id(options), options)
    in_loop = import_module("superd.handlers.forward.in_loop")
    status: int = await in_loop.serve(plan, reader, writer)
    return status


def _serve(argv: tuple[str, ...], options: Options) -> int:
    plan = _plan(argv, options)
    status: int = import_module("superd.handlers.forward.alone").serve_stdin(plan)
    return status


def _plan(key: object, options: Options) -> Any:
    """Return the plan of these options. Raises SetupError."""
    if not _plans:
        module = import_module("superd.handlers.forward.plan")
        _plans["plans"] = module.Plans()
    return _plans["plans"].take(key, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
