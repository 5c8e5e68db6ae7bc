"""Bring a plan into force: open everything new, then swap; or change nothing.

All new sockets are open before anything of the running generation is touched, and a
listener whose key stays is never closed: closing and binding again loses what waits in
its backlog (621 of 8,163 connections in a measurement of 23 reloads).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from superd.core.events import Reloaded
from superd.core.spec import service_spec
from superd.master import holder, listen
from superd.master.accept import accept_batch
from superd.master.eventlog import open_sink
from superd.master.opened import Open

if TYPE_CHECKING:
    from superd.master.eventlog import EventLog
    from superd.master.logsink import Sink
    from superd.master.notify import Inherited
    from superd.master.shell import Shell

LAST_BATCH = 4096
"""Connections of a closing listener's backlog that are still served."""


class ApplyError(Exception):
    """The plan cannot be brought into force; nothing was changed."""

    def __init__(self, lines: list[str], status: int) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
        self.status = status


class New(NamedTuple):
    """What was opened for a plan and is not in force yet."""

    listeners: dict[str, Open]
    warnings: list[str]
    missing: set[str]
    """Optional listeners that cannot be had now; the next reload tries them again."""


class Generations:
    """The plan in force, and the way to the next one."""

    def __init__(
        self, shell: Shell, log: EventLog, inherited: Inherited, *, daemon: bool
    ) -> None:
        self._shell = shell
        self._log = log
        self._inherited = inherited
        self._daemon = daemon
        self._log_to = "stderr"
        self.number = 0
        self.plan: dict[str, Any] = {}

    def apply(self, plan: dict[str, Any]) -> None:
        """Bring a plan into force; raises ApplyError and leaves all as it was."""
        expanded = self._name_inherited(plan)
        sink = self._open_log(plan["log"])
        try:
            new = self._open(expanded)
        except ApplyError:
            if sink is not None:
                sink.close()
            raise
        log = plan["log"]
        self._log_to = self._where(log)
        self._log.configure(sink or self._log.sink, log["format"], log["level"])
        for text in new.warnings:
            self._log.write("warning", "listen", (("text", text),))
        there = [
            dict(
                service,
                listeners=[
                    one for one in service["listeners"] if one["key"] not in new.missing
                ],
            )
            for service in expanded
        ]
        self._swap(plan, there, new)

    def _swap(
        self, plan: dict[str, Any], services: list[dict[str, Any]], new: New
    ) -> None:
        shell = self._shell
        specs = {
            one["key"]: one for service in services for one in service["listeners"]
        }
        for key in shell.listeners.keys() & specs.keys():
            shell.listeners[key].spec = specs[key]
        self.accept_last([key for key in shell.listeners if key not in specs])
        owners = {
            one["key"]: service["name"]
            for service in services
            for one in service["listeners"]
        }
        shell.listeners.update(new.listeners)
        for key in new.listeners:
            shell.kept.pop(key, None)
        new_specs = tuple(service_spec(one) for one in services)
        shell.specs = {spec.name: spec.launcher for spec in new_specs}
        for key, opened in new.listeners.items():
            self._log.write(
                "info",
                "listen",
                (
                    ("service", owners[key]),
                    ("listener", key),
                    ("address", spell(opened.sock)),
                ),
            )
        self.number += 1
        self.plan = plan
        shell.feed(Reloaded(new_specs, self.number))

    def accept_last(self, keys: list[str]) -> None:
        """Accept what waits in listeners that are about to be closed.

        Not on a wait program's: it blocks, and accepting on it is not ours. And not on a
        full service's: who waits there has no handler coming.
        """
        for key in keys:
            opened = self._shell.listeners[key]
            if opened.polled and self._shell.core.listeners[key].kind == "stream":
                accept_batch(self._shell, key, opened, LAST_BATCH)

    def _name_inherited(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Replace each fd:NAME by the sockets of that name, one listener each."""
        lines: list[str] = []
        services = []
        for service in plan["services"]:
            listeners: list[dict[str, Any]] = []
            for one in service["listeners"]:
                if one["family"] != "fd":
                    listeners.append(one)
                    continue
                try:
                    listeners.extend(self._inherited_listeners(one))
                except ValueError as error:
                    lines.append(f"{one['place']}: {service['name']}: {error}")
            services.append(dict(service, listeners=listeners))
        if lines:
            raise ApplyError(lines, os.EX_CONFIG)
        return services

    def _inherited_listeners(self, one: dict[str, Any]) -> list[dict[str, Any]]:
        names = self._inherited.by_name
        socks = names.get(one["name"], [])
        if not socks:
            there = ", ".join(sorted(names)) or "none at all"
            raise ValueError(
                f"no inherited socket is named {one['name']} "
                f"(LISTEN_FDNAMES gives: {there})"
            )
        made = []
        for number, sock in enumerate(socks):
            stream = sock.type == socket.SOCK_STREAM
            if stream and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ValueError(f"the inherited socket {one['name']} does not listen")
            key = one["key"] + (f" {number + 1}" if number else "")
            made.append(dict(one, key=key, type="stream" if stream else "dgram"))
        return made

    def _open_log(self, log: dict[str, Any]) -> Sink | None:
        to = self._where(log)
        if to == self._log_to:
            return None
        try:
            sink = open_sink(to)
        except OSError as error:
            line = f"log.to: cannot write to {to}: {error.strerror}"
            raise ApplyError([line], os.EX_CONFIG) from error
        return sink

    def _where(self, log: dict[str, Any]) -> str:
        to: str = log["to"]
        # A daemon's stderr is /dev/null.
        return "syslog" if to == "stderr" and self._daemon else to

    def _open(self, services: list[dict[str, Any]]) -> New:
        opened: dict[str, Open] = {}
        lines: list[str] = []
        warnings: list[str] = []
        missing: set[str] = set()
        status = os.EX_UNAVAILABLE
        for service in services:
            port: int | None = None
            for one in service["listeners"]:
                if one["key"] in self._shell.listeners:
                    continue
                try:
                    sock = self._open_one(one, port)
                except listen.ListenError as error:
                    if one["optional"]:
                        warnings.append(f"{error}; going on without it")
                        missing.add(one["key"])
                        continue
                    lines.append(str(error) + self._whose(one, error.errno))
                    if error.errno == errno.EACCES:
                        status = os.EX_NOPERM
                    continue
                opened[one["key"]] = Open(sock, one)
                if one["port"] == 0:
                    port = listen.reported_port(sock)
        if lines:
            for entry in opened.values():
                if entry.spec["family"] != "fd":
                    entry.close()
            raise ApplyError(lines, status)
        return New(opened, warnings, missing)

    def _open_one(self, one: dict[str, Any], port: int | None) -> socket.socket:
        if one["family"] != "fd":
            return listen.open_listener(
                self._shell.kernel, one, port if one["port"] == 0 else None
            )
        _, _, number = one["key"].removeprefix("fd ").partition(" ")
        return self._inherited.by_name[one["name"]][int(number or "1") - 1]

    def _whose(self, one: dict[str, Any], number: int) -> str:
        if number != errno.EADDRINUSE:
            return ""
        if self.number:  # serving: no walk through /proc
            return (
                f" (ss -lnp | grep :{one['port']} tells whose)" if one["port"] else ""
            )
        names = holder.who_holds(one)
        return f": {names} listens there" if names else ""

    def summary(self) -> str:
        """Say what is in force, for STATUS= and the operator."""
        services = len(self.plan.get("services", []))
        listeners = len(self._shell.listeners)
        return (
            f"{services} service{'s' * (services != 1)}, "
            f"{listeners} listener{'s' * (listeners != 1)}"
        )


def spell(sock: socket.socket) -> str:
    """Spell the address a socket really has: where port 0 is answered."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(name)
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return f"{name[0]}:{name[1]}"
