"""Look at a Python handler's source without running a line of it.

This process is root where superd is; a handler's module must never be. So its file is
found by the path finder alone, no package on the way is imported, and what it offers is
read from the syntax tree: `main`, `serve`, `datagram`, and the literal `OPTIONS`.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from superd.config.problems import ConfigError, Problems, show

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "superd.handlers"
LARGEST_SOURCE = 1 << 20
PLAIN = ("str", "int", "float", "bool", "path", "list", "choice", "duration", "size")
TYPES = (*PLAIN, "map", "table")


@dataclass(frozen=True, slots=True)
class Handler:
    """What is known of a handler: its module, what it serves, its options."""

    name: str
    module: str
    folders: tuple[str, ...]
    stream: bool
    loop: bool
    datagram: bool
    options: dict[str, dict[str, Any]] | None


class Handlers:
    """The registered handlers, each looked at once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._modules: dict[str, str] | None = None
        self._found: dict[str, Handler | ConfigError] = {}

    def find(self, name: str) -> Handler:
        """The handler of a name; raises ConfigError."""
        if name not in self._found:
            try:
                self._found[name] = self._look(name)
            except ConfigError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, ConfigError):
            raise found
        return found

    def _look(self, name: str) -> Handler:
        modules = self._registered()
        if name not in modules:
            guess = self._problems.guess(name, modules)
            known = f"; known: {', '.join(sorted(modules))}" if modules else ""
            raise ConfigError(f"no handler {show(name)} is registered{guess or known}")
        module = modules[name]
        path, folders = find_source(module)
        names, options = read_source_of(module, path)
        return Handler(
            name,
            module,
            folders,
            stream="main" in names,
            loop="serve" in names,
            datagram="datagram" in names,
            options=options,
        )

    def _registered(self) -> dict[str, str]:
        if self._modules is None:
            self._modules = {
                entry.name: entry.value.partition(":")[0].strip()
                for entry in entry_points(group=GROUP)
            }
        return self._modules


def find_source(module: str) -> tuple[str, tuple[str, ...]]:
    """The file of a module, and the folders one must search to import it."""
    search: list[str] | None = None
    name = ""
    folders: list[str] = []
    parts = module.split(".")
    for count, part in enumerate(parts, start=1):
        name = f"{name}.{part}" if name else part
        try:
            spec = PathFinder.find_spec(name, search)
            below = spec and spec.submodule_search_locations
            search = [os.path.abspath(folder) for folder in below or ()]
        except (ImportError, KeyError, ValueError, OSError):
            spec, search = None, []
        if spec is None or (count < len(parts) and not search):
            raise ConfigError(
                f"its module {module} is not found; is its package installed?"
            )
        folders.extend(search)
    if not spec or not spec.origin or not isinstance(spec.loader, SourceFileLoader):
        raise ConfigError(f"its module {module} has no Python source to look at")
    path = os.path.abspath(spec.origin)
    return path, tuple(dict.fromkeys([*folders, os.path.dirname(path)]))


def read_source_of(
    module: str, path: str
) -> tuple[set[str], dict[str, dict[str, Any]] | None]:
    """The names a module defines and its OPTIONS; raises ConfigError.

    A plain `def serve` is not among them: it is the module's own business.
    """
    try:
        if os.path.getsize(path) > LARGEST_SOURCE:
            raise ConfigError(f"{path} is larger than 1 MiB; no handler is")
        with open(path, "rb") as source:
            tree = ast.parse(source.read(), path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        at = f"{path}:{line}" if line else path
        raise ConfigError(f"its module {module} is no valid Python: {at}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    names: set[str] = set()
    options: Any = None
    for name, value in _definitions(tree.body):
        names.add(name)
        if name == "OPTIONS" and value is not None:
            try:
                options = ast.literal_eval(value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                options = None
    return names, None if options is None else _check_options(module, options)


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr | None]]:
    """The names that the top level of a module binds, with the value where plain."""
    for node in body:
        match node:
            case ast.FunctionDef(name="serve"):
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, None
            case ast.Assign():
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        yield target.id, node.value
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value:
                yield name, value
            case ast.ImportFrom() | ast.Import():
                for alias in node.names:
                    yield alias.asname or alias.name, None
            case ast.If() | ast.Try():
                yield from _definitions([*node.body, *node.orelse])


def _check_options(module: str, options: Any) -> dict[str, dict[str, Any]]:
    if not _is_table(options, TYPES):
        raise ConfigError(
            f"the OPTIONS of its module {module} are not understood; each is "
            f'"name": {{"type": one of {", ".join(TYPES)}, ...}}'
        )
    return dict(options)


def _is_table(rows: Any, types: tuple[str, ...]) -> bool:
    return isinstance(rows, dict) and all(
        isinstance(name, str) and name.isidentifier() and _is_row(row, types)
        for name, row in rows.items()
    )


def _is_row(row: Any, types: tuple[str, ...]) -> bool:
    if not isinstance(row, dict) or row.get("type") not in types:
        return False
    if row["type"] == "choice":
        return isinstance(row.get("choices"), list | tuple)
    if row["type"] == "table":
        keys: Any = row.get("keys")
        return _is_table(keys, PLAIN) and row.get("lone", next(iter(keys), "")) in keys
    return True
