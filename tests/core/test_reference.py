"""The tables in the documents are those of the code."""

from __future__ import annotations

import os

import pytest

from superd.core import admission, exitcodes, lifecycle, reference
from superd.core.verbs import VERBS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENTS = ["superd/README.md", "docs/logging.md", "docs/exit-codes.md"]


def read(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("path", DOCUMENTS)
def test_the_tables_of_a_document_are_fresh(path):
    """If this fails: python -m superd.core.reference --write and the file's name."""
    assert "<!-- generated: " in read(path)
    assert reference.main(["--check", os.path.join(ROOT, path)]) == 0


def test_every_block_is_in_a_document():
    everything = "".join(map(read, DOCUMENTS))
    for name in reference.BLOCKS:
        assert f"<!-- generated: {name} -->" in everything


def test_a_block_has_a_row_for_everything():
    steps = [by for row in lifecycle.TRANSITIONS.values() for by in row]
    assert reference.states().count(" --> ") == len(steps) + 2
    for row in exitcodes.TABLE:
        assert f"| {row.status} | {row.name} |" in reference.exits()
    for reason in admission.Reason:
        assert f"| `{reason.value}` |" in reference.reasons()
    for verb in VERBS:
        assert f"| `{verb}` |" in reference.verbs()


def test_text_around_a_block_is_left_alone():
    text = "before\n<!-- generated: verbs -->old<!-- end -->\nafter\n"
    new = reference.renew(text)
    assert new.startswith("before\n<!-- generated: verbs -->\n\n| verb")
    assert new.endswith("|\n\n<!-- end -->\nafter\n")
    assert reference.renew(new) == new


def test_a_stale_document_is_told_and_written(tmp_path, capsys):
    path = tmp_path / "doc.md"
    path.write_text("<!-- generated: exits -->\n<!-- end -->\n")
    assert reference.main(["--check", str(path)]) == 1
    assert f"{path}: behind the code" in capsys.readouterr().out
    assert path.read_text() == "<!-- generated: exits -->\n<!-- end -->\n"
    assert reference.main(["--write", str(path)]) == 0
    assert reference.main(["--check", str(path)]) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- generated: nothing -->\n<!-- end -->", "no such block: nothing"),
        ("<!-- generated: exits -->\n", "the block exits has no <!-- end -->"),
    ],
)
def test_a_broken_document_is_not_written(tmp_path, capsys, text, problem):
    path = tmp_path / "doc.md"
    path.write_text(text)
    assert reference.main(["--write", str(path)]) == 2
    assert problem in capsys.readouterr().err
    assert path.read_text() == text
