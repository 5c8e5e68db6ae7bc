"""Compile the files in bad/ and good/ and compare with what is written beside them."""

from __future__ import annotations

import glob
import json
import os

import pytest

from superd.config.compile import compile_file
from superd.config.document import read_document
from superd.config.dump import dump_configuration
from superd.config.identity import Situation
from superd.config.loaders import LOADER, PYTHON_LOADER
from superd.config.problems import Problems
from superd.config.source import UnreadableError, read_source

HERE = os.path.dirname(os.path.abspath(__file__))
ORDINARY = Situation(root=False, check=True)


def corpus(folder):
    """The files of a folder, named as a test shows them."""
    return sorted(glob.glob(f"{folder}/*.yaml", root_dir=HERE))


def read(path):
    """A file of the corpus, HERE standing for this folder."""
    with open(os.path.join(HERE, path), encoding="utf-8") as file:
        return file.read().replace("HERE", HERE)


def contains(whole, part):
    """Whether every key of part, however deep, is in whole with the same value."""
    if isinstance(part, dict):
        return all(name in whole and contains(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("path", corpus("bad"))
def test_bad_file_is_told_in_exactly_these_lines(path, here):
    result = compile_file(path, ORDINARY)

    lines = result.problems.error_lines() + result.problems.warning_lines("warning")
    assert lines == read(path.replace(".yaml", ".err")).splitlines()
    assert result.problems.errors
    assert result.plan is None


@pytest.mark.parametrize("path", corpus("good"))
def test_good_file_makes_this_plan(path, here):
    result = compile_file(path, ORDINARY)

    assert result.problems.error_lines() == []
    services = {service["name"]: service for service in result.plan["services"]}
    expected = json.loads(read(path.replace(".yaml", ".json")))
    assert services.keys() == expected.keys()
    for name, part in expected.items():
        assert contains(services[name], part), services[name]


@pytest.mark.parametrize("path", corpus("good"))
def test_dump_of_a_good_file_means_the_same(path, here, compiled):
    result = compile_file(path, ORDINARY)

    again = compiled(dump_configuration(result.log, result.services))

    assert again.problems.error_lines() == []
    # The dump writes every default of a handler: flags that were not there.
    assert without_places(again.plan) == without_places(result.plan)
    assert options_of(again) == options_of(result)
    assert dump_configuration(again.log, again.services) == dump_configuration(
        result.log, result.services
    )


@pytest.mark.parametrize("path", corpus("bad") + corpus("good") + corpus("bad/more"))
def test_libyaml_and_the_python_parser_read_the_same(path, here):
    assert documents_of(path, LOADER) == documents_of(path, PYTHON_LOADER)


def documents_of(path, loader):
    """What a parser makes of a file: data, places, problems."""
    try:
        source = read_source(path)
    except UnreadableError as error:
        return str(error)
    problems = Problems()
    document = read_document(source, problems, loader)
    found = document and (document.data, document.keys, document.values)
    return found, problems.error_lines()


def options_of(result):
    """What each handler is told, defaults and all."""
    return [one.program.options for one in result.services if one.program]


def without_places(plan):
    """A plan less what says where it was written, and less the flags of handlers."""
    plan = json.loads(json.dumps(plan))
    del plan["files"]
    for service in plan["services"]:
        del service["place"]
        if "handler" in service["launcher"]["program"]:
            del service["launcher"]["program"]["argv"]
        for listener in service["listeners"]:
            del listener["place"], listener["text"]
    return plan
