"""Make of the options what every connection of the service needs, once for a process."""

from __future__ import annotations

from superd.handlers.relay.addresses import parse_all
from superd.handlers.relay.backends import Backends

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from superd.handlers.options import Options


class Plan:
    """The backends with what is known of them, and the options as they are used."""

    __slots__ = (
        "backends",
        "connect",
        "half_closed",
        "idle",
        "log",
        "proxy_protocol",
        "session",
        "sessions",
    )

    def __init__(self, options: Options) -> None:
        self.backends = Backends(
            parse_all(options["to"]), options["order"], options["retry"]
        )
        timeouts = options["timeouts"]
        self.connect: float = timeouts["connect"]
        self.idle: float = timeouts["idle"]
        self.half_closed: float = timeouts["half_closed"]
        self.session: float = timeouts["session"]
        self.sessions: int = options["sessions"]
        self.proxy_protocol: str = options["proxy_protocol"]
        self.log: bool = options["log"]


def plan_of(options: Options) -> Plan:
    """Return the plan; all connections of one process share it, and what it learns."""
    key = repr(options)
    if key not in _plans:
        _plans.clear()
        _plans[key] = Plan(options)
    return _plans[key]


_plans: dict[str, Plan] = {}
