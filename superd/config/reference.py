"""Write the reference of all keys: `python -m superd.config.reference --write docs`.

Generated from the declarations, so that it cannot say anything else. `--check` tells
whether the file in the folder is still what would be written.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from superd.config.declared import ANY, Declared, declared_keys
from superd.config.keys import COSTS
from superd.config.model import Common, Service
from superd.config.schema import make_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE = "configuration.md"
PAIR = "[soft, hard]"

HEAD = """\
# The configuration

<!-- Written by `python -m superd.config.reference --write docs`. Do not edit. -->

One YAML file, `/etc/superd.yaml` unless `-c` names another. Anything not given has the
default below; `superd --dump -c FILE` prints a file with all of them filled in,
`superd -t -c FILE` says everything that is wrong with one, and `superd --schema` prints
the JSON Schema for editors.

    services:
      echo:
        listen: localhost:7007
        handler: echo
      greet:
        listen: localhost:7777
        exec: [/usr/local/bin/greet, hello]
        user: nobody
        limits: {connections: 100, per_source: 5}

## How it is read

- YAML 1.2 meaning: `no`, `on`, `0755`, `22:22`, `1_000`, `2024-01-01` are text.
  `true`, `false`, `null`, whole numbers (`0o17`, `0x1f` too) and `1.5` are not.
- Refused: unknown keys, keys written twice, anchors, aliases, merge keys, tags, a second
  document, tabs outside of quotes, anything but UTF-8, more than 1 MiB, more than 32
  levels. An empty file is an error, for it would stop every service.
- A word that begins with `[`, `*`, `:`, `@` or `%` needs quotes: `"[::1]:80"`, `"*:80"`.
- Every error of every file is told in one run:
  `file:line:column: key: problem; what would be right`.
- A *size* is a number of bytes or `64k`, `512M`, `1G`, `2T` (powers of 1024).
- A *duration* is `200ms`, `5s`, `1m`, `1.5h`, `2d`; only 0 needs no unit.
- A relative path belongs to the folder of the file that it is written in.
- Numbers in `exec` and `environment` stay the text that was written: `[/bin/sleep, 0.50]`.

## Where a service listens

| written | means |
|---|---|
| `7007`, `"*:7007"` | all addresses, IPv4 and IPv6; without IPv6 on the machine a warning |
| `localhost:7007` | 127.0.0.1 and ::1, likewise |
| `192.0.2.7:7007`, `"[2001:db8::7]:7007"` | this address |
| `echo`, `127.0.0.1:echo` | the port of that name in /etc/services |
| `7007/udp` | datagrams; `/tcp` is what is meant without it |
| `0` | any free port; the log says which |
| `unix:/run/x.sock`, `unix:./x.sock` | a unix socket; at most 107 bytes |
| `fd:NAME` | a socket that was passed in, by its name (systemd's FileDescriptorName=) |
| `{address: "localhost:79", optional: true}` | where it cannot be bound, a warning |

Names of hosts are not looked up. Two services cannot have one address, nor one of them
the address and another all addresses with the same port.

Datagrams go to a program in `mode: wait`, or to a Python handler that answers them, in
any other mode.

"""

MODES = """\
## How a service runs its handler

| `mode` | who serves a connection | what runs there |
|---|---|---|
| `process` | a fresh process | a program, or `main` of a Python handler |
| `pool` | a warm worker, one connection at a time | `main` of a Python handler |
| `loop` | an event loop, many connections each | `async def serve` of a Python handler |
| `wait` | the program, which gets the listening socket | a program |

Which one to take:

- `process` to begin with: no connection can harm another one, every program will do, and
  every limit is for one connection.
- `pool` where so many short connections come that a process for each is what the time
  goes into.
- `loop` where thousands of peers stay connected and mostly say nothing. Its handler must
  never block: while it waits for anything without `await`, all peers of that worker wait.
- `wait` for UDP servers, and for programs made for inetd's `wait` or systemd's sockets.
  superd sees none of its peers.

For example:

    services:
      files:
        listen: 8080
        handler: httpd
        mode: pool
        workers: 8
        max_workers: 64
      echo:
        listen: 7007
        handler: echo
        mode: loop
        workers: 2
        limits: {connections: 5000}
        rlimits: {nofile: 8192}

What the keys mean there:

| | `process` | `pool` | `loop` |
|---|---|---|---|
| `workers` (4) | - | there from the start | there from the start |
| `max_workers` (16) | - | there may be under load | - |
| `requests` (10000) | - | of one worker, then it is renewed | - |
| `selector` (`auto`) | - | - | what a worker waits with |
| `warm` | as written | always | always |
| `limits.connections` | of the service | that, at most `max_workers` | of the service |
| `rlimits.cpu` | of a connection | of a connection | refused |
| `rlimits.nofile` | of a connection | of a worker | of a worker, all its peers |
| `stderr: peer` | yes | yes | refused: one stderr, many peers |

On a service, a key that its mode does not have is an error. In `defaults` it is for those
services whose mode has it.

**When `timeouts.lifetime` is over**, mode `process` sends TERM to the handler's process
group, and KILL 5 s later. Mode `pool` does the same to the worker, and a fresh one takes
its place. Mode `loop` cancels the connection's task; its worker goes on.

**A pool grows and shrinks.** When all its workers are busy it gets further ones, up to
`max_workers`. A connection beyond that waits in the backlog, or is refused, as
`limits.when_full` says. A worker above `workers` that had nothing to do for 30 s leaves.
After `requests` connections a worker leaves and a fresh one takes its place: what a
handler leaks, it leaks for so long.

**A pool keeps connections apart.** What a handler may have changed (its standard streams,
arguments, environment, folder, umask, signals, timers) is as it was for the next one;
where that cannot be had, because a thread or a process of it is left, a fresh worker takes
the place. Only the variables of its modules stay: a handler keeps nothing of a peer there.

**A loop's worker is one process for many peers.** When it dies, so do its connections.
Each of them takes a descriptor: with the usual `rlimits.nofile` a worker has room for about
1000, so a large `limits.connections` wants a larger `nofile`. `selector: select`
ends at 1024 descriptors whatever the limit is.

"""

COST_HEAD = """\
## What a change costs

A reload compares the new configuration with the running one. Every key says what
a change of it comes to; no other service notices.

"""


def make_reference() -> str:
    """The whole text."""
    return "".join(
        (
            HEAD,
            MODES,
            COST_HEAD,
            *(f"- **{cost}**: {text}\n" for cost, text in COSTS.items()),
            *_sections(),
        )
    )


def _sections() -> Iterator[str]:
    keys = declared_keys().values()
    yield "\n## Top level\n"
    for key in keys:
        if key.path[:2] != ("services", ANY):
            yield _entry(key, key.path)
    yield "\n## A service\n\nThe keys of `services.NAME`, and of `defaults`"
    yield " but for listen, exec, handler and options.\n"
    for key in keys:
        if key.path[:2] == ("services", ANY):
            yield _entry(key, key.path[2:])


def _entry(key: Declared, path: tuple[str, ...]) -> str:
    facts = [f"- default: {_default(key)}"]
    facts.insert(0, f"- type: {_type(key)}")
    if bounds := _bounds(key):
        facts.append(f"- range: {bounds}")
    if key.cost:
        facts.append(f"- a change: {key.cost}")
    example = key.note("example")
    facts.append(f"- example: `{key.name}: {example}`")
    return "\n".join((f"\n### `{'.'.join(path)}`\n", key.text, "", *facts, ""))


def _type(key: Declared) -> str:
    schema = _property(key)
    if "enum" in schema:
        words = ["null" if one is None else str(one) for one in schema["enum"]]
        return " or ".join(f"`{word}`" for word in dict.fromkeys(words))
    kinds = [_kind(part) for part in _parts(schema)]
    if unit := key.note("unit"):
        kinds = [unit, *(kind for kind in kinds if kind in ("null", PAIR))]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind))


def _parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in schema.get("anyOf", [schema]):
        if "anyOf" in part:
            yield from _parts(part)
        else:
            yield part


def _kind(part: dict[str, Any]) -> str:
    words = {
        "boolean": "true or false",
        "integer": "whole number",
        "string": "text",
        "array": "list",
        "object": "mapping",
        "null": "null",
        "number": "number",
    }
    kind = part.get("type", "object")
    if "maxItems" in part:
        return PAIR
    if isinstance(kind, list):
        return " or ".join(words[one] for one in kind)
    return words[kind]


def _property(key: Declared) -> dict[str, Any]:
    schema = _schema()
    where = schema["definitions"].get(key.owner.__name__, schema)
    return dict(where["properties"][key.name])


@functools.cache
def _schema() -> dict[str, Any]:
    return make_schema()


def _default(key: Declared) -> str:
    owner = key.owner
    if key.name == "listen" and owner is Service:
        return "none; it is required"
    if owner is Service and key.name in ("exec", "handler"):
        return "none"
    if key.name == "services":
        return "none; at least one is needed"
    if key.below is not None:
        return "as its keys say"
    model = Common if owner is Service and key.name != "options" else owner
    value = {} if key.name == "options" else _defaults_of(model)[key.name]
    return f"`{_spell(value)}`"


def _defaults_of(model: type[Any]) -> dict[str, Any]:
    values: dict[str, Any] = model().model_dump(mode="json", by_alias=True)
    return values


def _spell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == "" or (
        isinstance(value, str) and value[0].isdigit() and value.isdigit()
    ):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(_spell(one) for one in value)}]"
    return str(value)


def _bounds(key: Declared) -> str:
    if values := key.note("values"):
        return values
    least, greatest = key.bounds()
    if least and greatest:
        return f"{least} to {greatest}"
    if least:
        return f"at least {least}"
    if longest := next(
        (part.max_length for part in key.field.metadata if hasattr(part, "max_length")),
        None,
    ):
        return f"at most {longest} characters"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the reference into a folder, or check the one that is there."""
    parser = argparse.ArgumentParser(prog="superd.config.reference")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", metavar="FOLDER")
    what.add_argument("--check", metavar="FOLDER", nargs="?", const="docs")
    arguments = parser.parse_args(argv)
    path = os.path.join(arguments.write or arguments.check, FILE)
    text = make_reference()
    if arguments.write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return 0
    try:
        with open(path, encoding="utf-8") as file:
            is_fresh = file.read() == text
    except OSError:
        is_fresh = False
    if not is_fresh:
        print(f"{path} is stale; write it anew with --write", file=sys.stderr)
    return 0 if is_fresh else 1


if __name__ == "__main__":
    sys.exit(main())
