"""Write the JSON Schema of the configuration, for editors.

Draft 7: what editors' YAML servers and schema stores take.
"""

from __future__ import annotations

from typing import Any

from superd.config.model import Common, Configuration

DRAFT = "http://json-schema.org/draft-07/schema#"
BOUNDS = {"ge": "minimum", "le": "maximum"}


def make_schema() -> dict[str, Any]:
    """The whole schema, generated from the models."""
    schema = Configuration.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs")
    definitions["Service"]["required"] = ["listen"]
    definitions["Service"]["oneOf"] = [
        {"required": ["exec"]},
        {"required": ["handler"]},
    ]
    spelled = Common().model_dump(mode="json", by_alias=True)
    for name, default in spelled.items():
        for model in ("Common", "Service"):
            definitions[model]["properties"][name]["default"] = default
    for group, model in (("rlimits", "Rlimits"), ("timeouts", "Timeouts")):
        for name, default in spelled[group].items():
            definitions[model]["properties"][name]["default"] = default
    _allow_single(definitions["Service"]["properties"]["listen"])
    _allow_single(schema["properties"]["include"])
    del definitions["Service"]["properties"]["listen"]["default"]
    whole = {
        "$schema": DRAFT,
        "title": "superd configuration",
        **{name: value for name, value in schema.items() if name != "title"},
        "definitions": definitions,
    }
    _tidy(whole)
    return whole


def _allow_single(node: dict[str, Any]) -> None:
    """Let one item stand where a list of them may."""
    whole = {
        name: node.pop(name) for name in ("type", "items", "minItems") if name in node
    }
    node["anyOf"] = [whole["items"], whole]


def _tidy(node: Any) -> None:
    """Take out what is not of draft 7, and what only repeats a key."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
        return
    if not isinstance(node, dict):
        return
    for name in BOUNDS:
        if not isinstance(node.get(name), dict):
            node.pop(name, None)
    if "properties" in node:
        for below in node["properties"].values():
            below.pop("title", None)
    # Beside a $ref, draft 7 ignores everything.
    if "$ref" in node and len(node) > 1:
        node["allOf"] = [{"$ref": node.pop("$ref")}]
    for value in node.values():
        _tidy(value)
