"""Settle what a service runs: a program, or a Python handler with its flags."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superd.config.modes import WORKER_MODES
from superd.config.options import option_flags
from superd.config.problems import ConfigError
from superd.config.programs import program_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.config.handlers import Handler, Handlers
    from superd.config.model import Service
    from superd.config.origin import Origin
    from superd.config.sockets import Bound

STDLIB = os.path.dirname(os.path.abspath(os.__file__))


@dataclass(slots=True)
class Program:
    """What runs, as the plan has it, and what it takes to reach it."""

    plan: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    folders: tuple[str, ...] = ()


def settle_program(
    service: Service,
    sockets: Sequence[Bound],
    directory: str,
    handlers: Handlers,
    origin: Origin,
) -> Program | None:
    """The program of a service, or None where it has none that could run.

    `directory` is where it starts.
    """
    if service.exec is not None and service.handler is not None:
        origin.error(("handler",), "exec and handler exclude each other; delete one")
        return None
    if service.exec is not None:
        return _settle_exec(service, sockets, origin)
    if service.handler is not None:
        return _settle_handler(service, sockets, directory, handlers, origin)
    # A key that is there and did not fit was complained about at its own place.
    if not any(origin.has(key) or origin.misspells(key) for key in ("exec", "handler")):
        origin.error(
            (), "nothing to run; give exec: [/a/program] or handler: a Python handler"
        )
    return None


def _settle_exec(
    service: Service, sockets: Sequence[Bound], origin: Origin
) -> Program | None:
    words = service.exec or []
    if origin.has("options"):
        origin.error(
            ("options",), "options are for a Python handler; write them into exec"
        )
    if service.mode in WORKER_MODES and origin.fits(service.mode, "mode"):
        # In the service's own lines, where the mode is in the defaults.
        origin.error(
            ("mode",) if origin.has("mode") else ("exec",),
            f"mode {service.mode} keeps a Python handler between connections, and a "
            "program ends with its own; write mode: process, or give a handler",
        )
    if service.mode != "wait":
        _refuse_datagrams(
            sockets,
            origin,
            "a program cannot be given single datagrams; write mode: wait, "
            "and it reads the socket itself",
        )
    try:
        folder = origin.entry.document.source.folder
        path = program_path(words[0], folder)
    except ConfigError as error:
        origin.error(("exec", 0), str(error))
        return None
    return Program({"exec": [path, *words[1:]]}, file=path)


def _settle_handler(
    service: Service,
    sockets: Sequence[Bound],
    directory: str,
    handlers: Handlers,
    origin: Origin,
) -> Program | None:
    try:
        handler = handlers.find(service.handler or "")
    except ConfigError as error:
        origin.error(("handler",), str(error))
        return None
    if service.mode == "wait":
        origin.error(
            ("mode",),
            "wait hands the listening socket to a program, so it needs exec; "
            "leave mode out for a Python handler",
        )
    _refuse_unserved(service, handler, sockets, origin)
    document, path = origin.where("options")
    argv, options = option_flags(
        service.options, handler, path, document, origin.problems, directory
    )
    plan = {
        "handler": handler.name,
        "module": handler.module,
        "argv": argv,
        "stream": handler.stream,
        "datagram": handler.datagram,
    }
    return Program(plan, options, folders=(STDLIB, *handler.folders))


def _refuse_unserved(
    service: Service, handler: Handler, sockets: Sequence[Bound], origin: Origin
) -> None:
    if not (handler.stream or handler.loop or handler.datagram):
        origin.error(
            ("handler",),
            f'module {handler.module} has neither main nor "async def serve" nor '
            "datagram; it is no handler",
        )
        return
    if not handler.datagram:
        _refuse_datagrams(
            sockets,
            origin,
            f"handler {handler.name} answers no datagrams; leave /udp out",
        )
    streams = [bound for bound in sockets if bound.listener.type == "stream"]
    if not (handler.stream or handler.loop):
        for bound in streams:
            origin.problems.error(
                bound.place,
                (*origin.entry.path, "listen"),
                f"handler {handler.name} answers datagrams only; add /udp",
            )
        return
    # The launcher itself answers datagrams, in every mode.
    if (streams or not handler.datagram) and origin.fits(service.mode, "mode"):
        _refuse_mode(service, handler, origin)


def _refuse_mode(service: Service, handler: Handler, origin: Origin) -> None:
    if service.mode == "loop" and not handler.loop:
        origin.error(
            ("handler",),
            f'handler {handler.name} has no "async def serve": '
            "it runs in mode process or pool",
        )
    elif service.mode in ("process", "pool") and not handler.stream:
        origin.error(
            ("handler",), f"handler {handler.name} has no main: it runs in mode loop"
        )


def _refuse_datagrams(sockets: Sequence[Bound], origin: Origin, text: str) -> None:
    for bound in sockets:
        if bound.listener.type == "dgram":
            origin.problems.error(bound.place, (*origin.entry.path, "listen"), text)
