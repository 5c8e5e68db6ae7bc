"""Hold data against the models and tell every misfit in the operator's words.

Pydantic's own sentences never show: they speak of inputs and dictionaries to somebody
who wrote a file. What it found is told by its type, at the place where it was written.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from superd.config.declared import declared_at, known_names
from superd.config.keys import Keys
from superd.config.model import LATER
from superd.config.problems import Path, Problems, printable, show

if TYPE_CHECKING:
    from superd.config.document import Document

Model = TypeVar("Model", bound=Keys)

MEANT = {"yes": "true", "on": "true", "y": "true"} | dict.fromkeys(
    ("no", "off", "n"), "false"
)

HOMES: dict[Path, str] = {
    ("services", ""): "a service",
    ("services", "", "limits"): '"limits" of a service',
    ("services", "", "timeouts"): '"timeouts" of a service',
    ("services", "", "rlimits"): '"rlimits" of a service',
    (): "the top of the main file",
}
"""Where a key may belong that was written elsewhere."""


def validate(
    model: type[Model],
    data: Any,
    base: Path,
    document: Document,
    problems: Problems,
) -> tuple[Model, dict[str, Any]]:
    """The model and its data, both without the keys that did not fit.

    Every misfit is noted. The rest is returned all the same, so that what is wrong with
    it in other ways can be noted as well.
    """
    if not isinstance(data, dict):
        _note({"type": "dict_type", "input": data, "loc": ()}, base, document, problems)
        data = {}
    data = copy.deepcopy(data)
    try:
        return model.model_validate(data), data
    except ValidationError as error:
        for misfit in error.errors(include_url=False):
            _note(misfit, base, document, problems)
            data.pop(misfit["loc"][0] if misfit["loc"] else None, None)
    return model.model_validate(data), data


def _note(misfit: Any, base: Path, document: Document, problems: Problems) -> None:
    kind: str = misfit["type"]
    path = (*base, *_written(misfit["loc"], base, document))
    if document.is_spoiled(path):
        return
    if kind == "extra_forbidden":
        text = f"unknown key{_remedy(path, problems)}"
        problems.error(document.key_place(path), path, text)
        return
    if kind == "missing":
        text = f"missing{_example(path)}"
        problems.error(document.value_place(path[:-1]), path, text)
        return
    is_key = misfit["loc"][-1:] == ("[key]",)
    place = document.key_place(path) if is_key else document.value_place(path)
    problems.error(place, path, _sentence(kind, misfit, path, document, problems))


def _written(loc: Path, base: Path, document: Document) -> Path:
    """The path as it was written: no list around a single item, no mark of a key."""
    written: Path = ()
    for part in loc:
        if part == "[key]":
            continue
        around = document.values.get((*base, *written))
        is_list = (*base, *written, part) in document.values
        if isinstance(part, int) and around is not None and not is_list:
            continue
        written = (*written, part)
    return written


def _sentence(
    kind: str, misfit: Any, path: Path, document: Document, problems: Problems
) -> str:
    value = misfit["input"]
    context = misfit.get("ctx", {})
    match kind:
        case "value_error":
            return str(context["error"])
        case "int_type":
            return f"expected a whole number, got {show(value)}{_example(path)}"
        case "greater_than_equal" | "less_than_equal":
            # The value is seconds by now; shown is what was written.
            got = printable(document.texts.get(path, str(value)))
            return f"expected {_range(path)}, got {got}{_example(path)}"
        case "bool_type":
            meant = MEANT.get(value.lower()) if isinstance(value, str) else None
            remedy = f"; write {meant}" if meant else ""
            return f"expected true or false, got {show(value)}{remedy}"
        case "list_type":
            return f"expected a list, got {show(value)}{_example(path)}"
        case "dict_type" | "model_type":
            return f"expected a mapping of keys, got {show(value)}{_example(path)}"
        case "literal_error":
            return _choice(value, context["expected"], problems)
        case "string_too_long":
            return f"longer than {context['max_length']} characters; make it shorter"
        case "too_short":
            return f"nothing in it{_example(path)}"
    return f"{show(value)} does not fit here{_example(path)}"


def _choice(value: object, expected: str, problems: Problems) -> str:
    words = re.findall(r"'([^']*)'", expected)
    listed = " or ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else words[0]
    guess = problems.guess(value, words) if isinstance(value, str) else ""
    return f"expected {listed}, got {show(value)}{guess}"


def _remedy(path: Path, problems: Problems) -> str:
    name = str(path[-1])
    around = path[:-1]
    known = known_names(around)
    if around == ("defaults",) and name in known_names(("services", "")):
        return f'; "{name}" belongs to one service, not to "defaults"'
    if name in LATER:
        return f'; "{name}" is not in this version of superd, leave it out'
    for home, words in HOMES.items():
        if name in known_names(home):
            return f'; "{name}" is a key of {words}'
    if near := problems.nearest(name, known):
        problems.meant.add((*around, near))
        return f'; did you mean "{near}"?'
    return f"; known here: {', '.join(known)}" if known else ""


def _example(path: Path) -> str:
    key = declared_at(path)
    example = key.note("example") if key else ""
    if path[:1] == ("services",) and len(path) == len(("services", "x")):
        example = "{listen: localhost:7007, exec: [/usr/bin/cat]}"
    return f"; for example {printable(example)}" if example else ""


def _range(path: Path) -> str:
    key = declared_at(path)
    least, greatest = key.bounds() if key else ("", "")
    what = "a duration" if key and key.note("unit") else "a whole number"
    if least and greatest:
        return f"{what} from {least} to {greatest}"
    return f"{what}, at least {least}" if least else f"{what}, at most {greatest}"
