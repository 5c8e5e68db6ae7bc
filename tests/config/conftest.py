"""Compile configurations in process, as an ordinary user's superd would."""

from __future__ import annotations

import os

import pytest

from superd.config.compile import compile_file
from superd.config.identity import Situation

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(autouse=True)
def _probes(monkeypatch):
    """Have the handlers in `site` registered, as an installed package has."""
    monkeypatch.syspath_prepend(os.path.join(HERE, "site"))


@pytest.fixture
def here(monkeypatch):
    """Work in this folder, so that places read `bad/x.yaml:1:2`."""
    monkeypatch.chdir(HERE)
    return HERE


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compile a text as x.yaml; keywords change the situation."""

    def compile_text(text, **situation):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "x.yaml").write_bytes(data)
        monkeypatch.chdir(tmp_path)
        chosen = {"root": False, "check": True, **situation}
        return compile_file("x.yaml", Situation(**chosen))

    return compile_text


@pytest.fixture
def errors(compiled):
    """The error lines of a text."""

    def error_lines(text, **situation):
        return compiled(text, **situation).problems.error_lines()

    return error_lines


@pytest.fixture
def service(compiled):
    """The planned service of a mapping's lines (or the whole test fails)."""

    def plan_service(*lines, **situation):
        text = "services:\n  x:\n" + "".join(f"    {line}\n" for line in lines)
        result = compiled(text, **situation)
        assert result.problems.error_lines() == []
        return result.plan["services"][0]

    return plan_service
