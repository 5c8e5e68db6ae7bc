"""Declare the keys of `rlimits`: the resource limits of a handler."""

from __future__ import annotations

from superd.config.keys import (
    CountLimit,
    Keys,
    MemoryLimit,
    SecondsLimit,
    SizeLimit,
    key,
)


class Rlimits(Keys):
    """Resource limits of a handler: setrlimit(2), one key per resource."""

    as_: MemoryLimit = key(
        None,
        "Address space of a process.",
        cost="launcher",
        example="512M",
        unit="size",
        alias="as",
    )
    core: SizeLimit = key(
        (0, 0),
        "Size of a core dump. A handler's memory holds what peers sent: none.",
        cost="launcher",
        example="0",
        unit="size",
    )
    cpu: SecondsLimit = key(
        None,
        "Processor time of a process, in mode pool of one connection; SIGXCPU ends it "
        "after that. Not for mode loop.",
        cost="launcher",
        example="60s",
        unit="duration",
        values="whole seconds, at least 1s",
    )
    data: MemoryLimit = key(
        None, "Data segment of a process.", cost="launcher", example="256M", unit="size"
    )
    fsize: SizeLimit = key(
        None, "Size of a file it writes.", cost="launcher", example="1G", unit="size"
    )
    memlock: SizeLimit = key(
        None, "Memory locked into RAM.", cost="launcher", example="64k", unit="size"
    )
    nofile: CountLimit = key(
        (1024, None),
        "Open files of a process, in mode loop of a worker with all its connections. "
        "The default is a soft limit only: select(2) ends there.",
        cost="launcher",
        example="256",
        values="1 to 2147483647",
    )
    nproc: CountLimit = key(
        None,
        "Processes and threads of the service's user, all services of it together.",
        cost="launcher",
        example="64",
        values="1 to 2147483647",
    )
    stack: MemoryLimit = key(
        None, "Stack of a process.", cost="launcher", example="8M", unit="size"
    )
