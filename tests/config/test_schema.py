"""Hold the schema, the reference and the shipped file against the declarations."""

from __future__ import annotations

import json
import os
import re
import textwrap

import pytest

from superd.config import reference
from superd.config.compile import compile_file
from superd.config.declared import ANY, declared_keys
from superd.config.document import read_document
from superd.config.dump import dump_configuration
from superd.config.identity import Situation
from superd.config.keys import COSTS
from superd.config.problems import Problems
from superd.config.schema import make_schema
from superd.config.source import Source, read_source

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ORDINARY = Situation(root=False, check=True)
SCHEMA = make_schema()
KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}
WORDS = """
    $ref allOf anyOf oneOf type enum properties additionalProperties required items
    minItems maxItems minimum maximum minLength maxLength pattern patternProperties
    description default title $schema definitions
"""
UNDERSTOOD = set(WORDS.split())


def misfits(value, schema):
    """Why a value does not fit a schema: as much of draft 7 as ours uses."""
    unknown = {name for name in schema if not name.startswith("x-")} - UNDERSTOOD
    assert not unknown, unknown
    if "$ref" in schema:
        assert len(schema) == 1
        return misfits(value, SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]])
    found = [why for part in schema.get("allOf", ()) for why in misfits(value, part)]
    if "anyOf" in schema and all(misfits(value, part) for part in schema["anyOf"]):
        found.append(f"{value!r} fits none of {schema['anyOf']}")
    if "oneOf" in schema:
        fitting = [part for part in schema["oneOf"] if not misfits(value, part)]
        if len(fitting) != 1:
            found.append(f"{value!r} fits {len(fitting)} of {schema['oneOf']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{value!r} is not of {schema['enum']}")
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        is_bool = isinstance(value, bool)
        if not any(
            isinstance(value, KINDS[kind]) and (kind == "boolean") == is_bool
            for kind in kinds
        ):
            return [*found, f"{value!r} is no {kinds}"]
    return found + list(misfits_inside(value, schema))


def misfits_inside(value, schema):
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (
            f"no {name}" for name in schema.get("required", ()) if name not in value
        )
        for name, one in value.items():
            if name in known:
                yield from misfits(one, known[name])
                continue
            patterns = schema.get("patternProperties", {})
            matching = [
                part for text, part in patterns.items() if re.search(text, name)
            ]
            for part in matching:
                yield from misfits(one, part)
            rest = schema.get("additionalProperties", True)
            if rest is False and not matching:
                yield f"unknown {name}"
            elif isinstance(rest, dict) and not matching:
                yield from misfits(one, rest)
    if isinstance(value, list) and "items" in schema:
        yield from (why for one in value for why in misfits(one, schema["items"]))
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{value!r} is not like {schema['pattern']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            yield f"{value} is too small"
        if value > schema.get("maximum", value):
            yield f"{value} is too large"


def data_of(path):
    return read_document(read_source(path), Problems()).data


def good_files():
    folder = os.path.join(HERE, "good")
    return sorted(name for name in os.listdir(folder) if name.endswith(".yaml"))


@pytest.mark.parametrize("name", good_files())
def test_good_file_and_its_dump_fit_the_schema(name, here):
    path = os.path.join("good", name)
    assert misfits(data_of(path), SCHEMA) == []

    result = compile_file(path, ORDINARY)
    text = dump_configuration(result.log, result.services)
    document = read_document(Source("dump", "/dump", text), Problems())
    assert misfits(document.data, SCHEMA) == []


@pytest.mark.parametrize(
    "name",
    [
        "unknown-keys",
        "wrong-types",
        "ranges",
        "modes",
        "booleans",
        "umask-decimal",
        "log",
        "durations",
    ],
)
def test_bad_file_does_not_fit_the_schema(name, here):
    assert misfits(data_of(f"bad/{name}.yaml"), SCHEMA) != []


def test_every_mapping_of_the_schema_refuses_unknown_keys():
    for name, definition in SCHEMA["definitions"].items():
        assert definition["additionalProperties"] is False, name
    assert SCHEMA["additionalProperties"] is False
    assert "$defs" not in json.dumps(SCHEMA)


def test_every_key_of_the_schema_has_a_description_for_editors():
    for definition in (SCHEMA, *SCHEMA["definitions"].values()):
        for name, key in definition["properties"].items():
            assert key["description"], name


def test_every_key_has_help_an_example_and_a_cost():
    for path, key in declared_keys().items():
        name = ".".join(path)
        assert key.text.endswith("."), name
        assert key.note("example"), name
        if key.below is None and path not in {("services",), ("defaults",)}:
            assert key.cost in COSTS, name


POOL = {"handler": "both", "mode": "pool"}
LOOP = {"handler": "both", "mode": "loop"}
PROGRAM = {"exec": "[/bin/cat]"}
BESIDE = {
    "handler": {},
    "options": {"handler": "httpd"},
    "mode": {"handler": "both"},
    "workers": POOL,
    "max_workers": POOL,
    "requests": POOL,
    "selector": LOOP,
}
"""What a key stands beside, where that is no program."""


@pytest.mark.parametrize(
    "key", declared_keys().values(), ids=lambda key: ".".join(key.path)
)
def test_example_of_a_key_is_accepted(key, errors):
    """Nothing is wrong with it; whether a file or a user exists is another matter."""
    example = key.note("example")
    if key.path[:2] != ("services", ANY):
        path = list(key.path)
        text = f"{path[0]}: " + (f"{{{path[1]}: {example}}}" if path[1:] else example)
        text += "\nservices: {}\n" if path[0] != "services" else "\n"
    else:
        inner = list(key.path[2:])
        value = example if len(inner) == 1 else f"{{{inner[-1]}: {example}}}"
        if len(inner) == 3:
            value = f"{{{inner[1]}: {value}}}"
        lines = {"listen": "localhost:7007", **BESIDE.get(inner[0], PROGRAM)}
        lines[inner[0]] = value
        text = "services:\n  x:\n" + "".join(
            f"    {n}: {v}\n" for n, v in lines.items()
        )

    found = errors(text)
    assert [
        line for line in found if not re.search("no user|no group|not there", line)
    ] == []


def test_reference_is_fresh():
    assert reference.main(["--check", os.path.join(ROOT, "docs")]) == 0


def test_stale_reference_is_told(tmp_path, capsys):
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert reference.main(["--write", str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "configuration.md").write_text("old")
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert "is stale" in capsys.readouterr().err


def test_reference_has_every_key():
    text = reference.make_reference()
    for path in declared_keys():
        shown = path[2:] if path[:2] == ("services", ANY) else path
        assert f"### `{'.'.join(shown)}`\n" in text


def test_examples_of_the_reference_are_accepted(errors):
    text = reference.HEAD + reference.MODES
    examples = re.findall(r"^    services:\n(?:     .*\n)+", text, re.MULTILINE)

    assert len(examples) == 2
    for example in examples:
        known = re.sub(r"handler: \w+", "handler: both", textwrap.dedent(example))
        lines = errors(known.replace("/usr/local/bin/greet", "/bin/cat"))
        assert lines == []


def test_shipped_file_fits_the_schema_and_passes_the_check():
    path = os.path.join(ROOT, "etc", "superd.yaml")
    assert misfits(data_of(path), SCHEMA) == []

    assert compile_file(path, ORDINARY).problems.error_lines() == []
