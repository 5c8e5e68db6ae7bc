"""Hold what the operator chose, checked.

The rule of the file: a Site is made once for each set of options and serves every
connection; what is wrong with the options is said when it is made, not by an answer.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from superd.handlers.exits import SetupError
from superd.handlers.http import files, media
from superd.handlers.http.accesslog import AccessLog
from superd.handlers.http.caching import CacheControl
from superd.handlers.http.extra import check_headers
from superd.handlers.http.request import Limits
from superd.handlers.http.response import REASONS
from superd.handlers.run import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from superd.handlers.http.passwords import Passwords
    from superd.handlers.options import Options

_DIGITS: Final = frozenset("0123456789")
ENDINGS: Final = (b".br", b".zst", b".gz")


class Timeouts(NamedTuple):
    """Seconds."""

    head: float = 30.0
    body: float = 30.0
    idle: float = 5.0
    send: float = 30.0
    """For an answer, besides the time that its bytes may take."""


class Bounds(NamedTuple):
    """What a peer may have at most."""

    head: Limits = Limits()
    body: int = 65536
    requests: int = 100
    rate: int = 1024
    """Bytes a second: a peer that reads more slowly holds a process for nothing."""


class Site(NamedTuple):
    """What is served, how, and to whom."""

    index_names: tuple[bytes, ...] = (b"index.html",)
    rules: files.Rules = files.Rules()
    dotfiles: bool = False
    listing: bool = False
    vhosts: bool = False
    endings: tuple[bytes, ...] = ENDINGS
    """Of files beside a file that have its content compressed."""
    cache_control: CacheControl = CacheControl(())
    headers: tuple[str, ...] = ()
    """Lines for every answer: `Name: value`."""
    error_pages: Mapping[int, tuple[bytes, ...]] = {}
    types: Mapping[str, str] = media.TYPES
    passwords: Passwords | None = None
    log: AccessLog | None = None
    timeouts: Timeouts = Timeouts()
    bounds: Bounds = Bounds()
    described: dict[tuple[object, ...], bytes] | None = None
    """Fields of files as they were sent, for those whose content is kept."""


def site_of(options: Options) -> Site:
    """Check the options of httpd. Raises SetupError."""
    for name in options["index"]:
        if name in ("", ".", "..") or "/" in name:
            raise SetupError(f"option --index: {name} is not the name of a file")
    limits, auth, log = options["limits"], options["auth"], options["access_log"]
    return Site(
        index_names=tuple(os.fsencode(name) for name in options["index"]),
        rules=files.Rules(options["world_readable"], options["symlinks"]),
        dotfiles=options["dotfiles"],
        listing=options["listing"],
        vhosts=options["vhosts"],
        endings=ENDINGS if options["precompressed"] else (),
        cache_control=CacheControl(options["cache_control"]),
        headers=check_headers(options["headers"]),
        error_pages=_error_pages(options["error_pages"]),
        types=_types(options["types"]),
        passwords=_passwords(auth["file"], auth["realm"]),
        log=AccessLog(log["format"], log["file"]) if log["format"] != "none" else None,
        timeouts=Timeouts(**options["timeouts"]),
        bounds=Bounds(
            Limits(limits["line"], limits["head"], limits["fields"]),
            limits["body"],
            limits["requests"],
            limits["rate"],
        ),
        described={},
    )


def _passwords(path: str | None, realm: str) -> Passwords | None:
    if not path:
        return None
    # By name: who has no passwords need not load ctypes and hashes for each connection.
    module: Any = import_module("superd.handlers.http.passwords")
    passwords: Passwords = module.Passwords(path, realm)
    return passwords


def _error_pages(pairs: list[tuple[str, str]]) -> dict[int, tuple[bytes, ...]]:
    pages = {}
    for key, path in pairs:
        known = _DIGITS.issuperset(key) and int(key or "0") in REASONS
        if not known or int(key) < 400:  # noqa: PLR2004
            raise SetupError(f"option --error-pages: {key} is no status of an error")
        names = tuple(os.fsencode(name) for name in path.split("/") if name)
        if not names or ".." in path.split("/"):
            raise SetupError(f"option --error-pages: {path} is no file below the root")
        pages[int(key)] = names
    return pages


def _types(path: str | None) -> Mapping[str, str]:
    if not path:
        return media.TYPES
    try:
        return media.read_types(path)
    except OSError as error:
        raise SetupError(f"option --types: {describe(error)}") from None
    except ValueError as error:
        raise SetupError(f"option --types: {path}: {error}") from None


class Sites:
    """The sites of a process: made once, for the options that are asked for again."""

    def __init__(self) -> None:
        self._key: Any = None
        self._site = Site()

    def take(self, key: object, options: Options) -> Site:
        """Return the site of these options, which `key` stands for."""
        if self._key != key:
            self._site = site_of(options)
            self._key = key
        return self._site
