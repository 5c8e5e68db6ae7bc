"""Settle each service: its defaults, sockets, program, identity and surroundings.

What one key may hold was looked at by the model. Here stands what takes a second key,
the system or a file to decide. Whatever fails is noted, and the rest goes on.
"""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superd.config.handlers import Handlers
from superd.config.identity import Identity, Lookup, Situation
from superd.config.model import SERVICE_NAME, Common, Service
from superd.config.modes import check_mode, most_connections
from superd.config.origin import Origin, merge, spell_out
from superd.config.problems import ConfigError, Problems
from superd.config.programs import USUAL_PATH, absolute
from superd.config.reach import Want, unreachable
from superd.config.running import Program, settle_program
from superd.config.sockets import Bound, refuse_meeting, settle_listeners
from superd.config.validate import validate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.config.files import Entry, Gathered

SPARE = 64
"""Descriptors that superd and its launchers need besides those of connections."""

CONNECTION_VARIABLES = frozenset(
    (
        "PROTO",
        "REMOTE_ADDR",
        "REMOTE_HOST",
        "REMOTE_PORT",
        "SUPERD_CONNECTION",
        "SUPERD_SERVICE",
        "TCPCONNNUM",
        "TCPLOCALIP",
        "TCPLOCALPORT",
        "TCPREMOTEHOST",
        "TCPREMOTEIP",
        "TCPREMOTEPORT",
    )
)


@dataclass(slots=True)
class Settled:
    """A service with everything about it decided."""

    entry: Entry
    service: Service
    sockets: list[Bound] = field(default_factory=list)
    program: Program | None = None
    identity: Identity | None = None
    directory: str = "/"
    environment: dict[str, str] = field(default_factory=dict)


class Settling:
    """Goes through the services of one configuration."""

    def __init__(
        self, gathered: Gathered, situation: Situation, problems: Problems
    ) -> None:
        self.gathered = gathered
        self.situation = situation
        self.problems = problems
        self.lookup = Lookup()
        self.handlers = Handlers(problems)
        self.wants: list[Want] = []

    def settle(self) -> list[Settled]:
        """All services in the order in which they were read."""
        main = self.gathered.main
        if main is None:
            return []
        written = spell_out(main.data.get("defaults"), ("defaults",), main)
        _, defaults = validate(
            Common, written or {}, ("defaults",), main, self.problems
        )
        origins = [
            Origin(entry, main, defaults, self.problems)
            for entry in self.gathered.services.values()
        ]
        found = [self._settle(origin.entry, origin) for origin in origins]
        self._warn_of_too_many(found, origins)
        refuse_meeting((one for each in found for one in each.sockets), self.problems)
        for want, text in unreachable(self.wants):
            self.problems.error(want.place, want.key, text)
        return found

    def _settle(self, entry: Entry, origin: Origin) -> Settled:
        if not re.match(SERVICE_NAME, entry.name) or entry.name.endswith("\n"):
            self.problems.error(
                entry.place,
                entry.path,
                "a name is letters, digits and ._+-, at most 64, and begins with a "
                "letter or digit; for example echo",
            )
        data = spell_out(entry.data, entry.path, entry.document)
        _, own = validate(Service, data, entry.path, entry.document, self.problems)
        service = Service.model_validate(merge(origin.defaults, own))
        settled = Settled(entry, service)
        if not service.enabled or not isinstance(entry.data, dict):
            return settled
        if not origin.has("listen") and not origin.misspells("listen"):
            origin.error((), "no listen; for example listen: localhost:7007")
        settled.sockets = settle_listeners(service.listen, origin)
        settled.directory = absolute(
            service.directory, origin.where("directory")[0].source.folder
        )
        settled.program = settle_program(
            service, settled.sockets, settled.directory, self.handlers, origin
        )
        check_mode(service, origin)
        known = self._settle_identity(settled, origin)
        settled.environment = self._environment(service, origin)
        self._warn_of_idle_keys(service, origin)
        if known:
            self._want(settled, origin)
        return settled

    def _settle_identity(self, settled: Settled, origin: Origin) -> bool:
        """Set the identity; False where it is unknown and nothing can be asked as it."""
        service, situation = settled.service, self.situation
        name = service.user
        if name is None and situation.root:
            name = situation.default_user
        try:
            uid = os.geteuid() if name is None else self.lookup.uid(name)
        except ConfigError as error:
            origin.error(("user",), str(error))
            return False
        gid = self._settle_group(service, name, origin)
        further: list[int] = []
        for number, group in enumerate(service.groups):
            try:
                further.append(self.lookup.gid(group))
            except ConfigError as error:
                origin.error(("groups", number), str(error))
        if gid is None or len(further) < len(service.groups):
            return False
        if not situation.root:
            return self._stay_who_we_are(uid, gid, further, service, origin)
        groups = tuple(dict.fromkeys([gid, *further]))
        settled.identity = Identity(self.lookup.user_name(uid), uid, gid, groups)
        if uid == 0:
            origin.warn(("user",), "runs as root, and so does whoever breaks into it")
        return True

    def _settle_group(
        self, service: Service, user: str | None, origin: Origin
    ) -> int | None:
        try:
            if service.group is not None:
                return self.lookup.gid(service.group)
            return os.getegid() if user is None else self.lookup.primary_gid(user)
        except ConfigError as error:
            origin.error(("group",), str(error))
        return None

    def _stay_who_we_are(
        self,
        uid: int,
        gid: int,
        further: list[int],
        service: Service,
        origin: Origin,
    ) -> bool:
        note = origin.warn if self.situation.check else origin.error
        me = self.lookup.user_name(os.geteuid())
        if uid != os.geteuid():
            note(
                ("user",),
                f'superd runs as {me} and cannot become "{service.user}"; '
                "start it as root, or leave user out",
            )
            return False
        same = gid == os.getegid() and set(further) <= {gid, *os.getgroups()}
        if not same:
            note(
                ("group",) if gid != os.getegid() else ("groups",),
                f"superd runs as {me} and cannot change its groups; "
                "start it as root, or leave group and groups out",
            )
        return same

    def _environment(self, service: Service, origin: Origin) -> dict[str, str]:
        for name in service.environment:
            if name in CONNECTION_VARIABLES:
                origin.warn(
                    ("environment", name),
                    "superd sets this for every connection; choose another name",
                )
        passed = {
            name: self.situation.environ[name]
            for name in service.pass_environment
            if name in self.situation.environ
        }
        return {"PATH": USUAL_PATH, **passed, **service.environment}

    def _warn_of_idle_keys(self, service: Service, origin: Origin) -> None:
        limits = service.limits
        nobody_refused = limits.when_full == "queue" and limits.per_source is None
        if limits.message and nobody_refused:
            origin.warn(
                ("limits", "message"),
                "nobody is refused, so nobody reads it; add when_full: refuse",
            )
        if service.mode == "wait":
            for name in ("banner", "resolve"):
                if getattr(service, name):
                    origin.warn(
                        (name,), "superd sees no peer in mode wait; leave it out"
                    )

    def _warn_of_too_many(
        self, found: Sequence[Settled], origins: Sequence[Origin]
    ) -> None:
        """Warn, once, of a service that may have more connections than descriptors."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for settled, origin in zip(found, origins, strict=True):
            service, limits = settled.service, settled.service.limits
            if not service.enabled or service.mode == "wait":
                continue
            # A launcher raises its own limit; those that wait for a source's slot do
            # so in the master, which does not.
            waits = limits.per_source is not None and limits.when_full == "queue"
            most = soft if waits else hard
            connections = most_connections(service)
            if most != resource.RLIM_INFINITY and connections > most - SPARE:
                origin.warn(
                    ("limits", "connections"),
                    f"{connections} is more than superd may have open: "
                    f"RLIMIT_NOFILE is {most}, and {SPARE} are its own; raise "
                    "LimitNOFILE= or ulimit -n",
                )
                return

    def _want(self, settled: Settled, origin: Origin) -> None:
        identity = settled.identity

        def want(purpose: Any, path: str, *key: str | int) -> None:
            document, where = origin.where(*key)
            place = document.value_place(where)
            self.wants.append(Want(place, where, purpose, path, identity))

        want("become", "", "user")
        want("enter", settled.directory, "directory")
        if settled.program is None:
            return
        if settled.program.file:
            want("run", settled.program.file, "exec", 0)
        for folder in settled.program.folders:
            want("import", folder, "handler")
