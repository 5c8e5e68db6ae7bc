"""The documents are true: their YAML is accepted, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import as_ordinary_user, run_superd

from superd.__main__ import build_parser
from superd.config.units import format_duration, format_size
from superd.handlers.httpd import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "examples/*.md",
        "tests/*.md",
        "superd/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


def blocks(language):
    return [
        pytest.param(text, id=f"{path.relative_to(ROOT)}:{number}")
        for path in DOCUMENTS
        for number, (name, text) in enumerate(FENCE.findall(path.read_text()))
        if name == language
    ]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_of_the_documents_is_accepted(text, tmp_path):
    file = tmp_path / "superd.yaml"
    # The paths of examples are relative to the file: a link makes them true.
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tmp_path.chmod(0o755)
    built = re.search(r"\bcc -o (\S+) (\S+)", text)
    if built:
        text = text.replace(f"[{built[1]}]", "[/bin/cat]")
    file.write_text(text)
    done = run_superd("-t", "-c", file)
    assert done.returncode == 0, done.stderr


def anchors(path):
    """The names that a forge gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path):
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("text", blocks("sh"))
def test_every_script_of_the_documents_is_a_script(text):
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_the_handler_of_the_readme_does_what_it_says():
    script = next(text for text in blocks("sh")).values[0]
    done = subprocess.run(
        ["sh", "-c", script],
        input=b"Zo\x1b[1me\r\n",
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "TCPREMOTEIP": "192.0.2.7"},
    )
    assert done.stdout == b"welcome, 192.0.2.7; who are you?\r\nhello Zo1me\r\n"
    nobody = subprocess.run(
        ["sh", "-c", script], input=b"\n", capture_output=True, check=False
    )
    assert nobody.returncode == 110


def test_the_flags_in_the_documents_exist():
    known = {
        flag for action in build_parser()._actions for flag in action.option_strings
    }
    for path in DOCUMENTS:
        for line in path.read_text().splitlines():
            command = re.search(r"(?:^    |`)superd ((?:-\S+ ?|[\w./]+ ?)+)", line)
            words = command[1].partition(" -- ")[0].split() if command else []
            for word in (word.strip("`,;") for word in words):
                if word.startswith("-"):
                    assert word in known, f"{path.name}: {line}"


def test_every_option_of_httpd_is_documented_and_no_other():
    text = (ROOT / "docs" / "handlers-httpd.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == OPTIONS.keys()
    for name, row in OPTIONS.items():
        for key, below in row.get("keys", {}).items():
            spell = {"duration": format_duration, "size": format_size, "int": str}
            if below["type"] in spell:
                default = spell[below["type"]](below["default"])
                assert f"`{key}: {default}`" in rows[name], key
            assert key in rows[name]


def test_every_make_target_in_the_documents_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in DOCUMENTS:
        text = path.read_text()
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)\b", text, re.MULTILINE):
            assert target in targets, f"{path.name}: make {target}"


def test_the_readme_opens_with_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines[2].split()[:2] == ["make", "run"]
    assert lines[3].split()[:2] == ["make", "test"]


def test_find_python_names_one_that_makes_a_venv():
    script = ROOT / ".ci" / "find-python"
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
    code = "import sys, venv, ensurepip; assert sys.version_info >= (3, 11)"
    subprocess.run([done.stdout.strip(), "-c", code], check=True)


def test_find_python_says_what_is_missing_where_there_is_none(tmp_path):
    for name in ("cat", "sh"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    script = (ROOT / ".ci" / "find-python").read_text()
    script = script.replace("/usr/bin/", "/nonexistent/").replace(
        "/usr/local/bin/", "/x/"
    )
    done = subprocess.run(
        ["/bin/sh", "-s"],
        input=script,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "apt-get install python3 python3-venv" in done.stderr


def test_an_ordinary_user_needs_no_extra_flags():
    command = ["sh", str(ROOT / ".ci" / "run-flags")]
    done = subprocess.run(
        [*as_ordinary_user(), *command], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.root
def test_a_checkout_that_nobody_can_reach_runs_its_services_as_root(tmp_path):
    private = tmp_path / "private"
    (private / ".ci").mkdir(parents=True)
    private.chmod(0o700)
    (private / ".venv" / "bin").mkdir(parents=True)
    (private / ".venv" / "bin" / "python").symlink_to(sys.executable)
    script = private / ".ci" / "run-flags"
    script.write_text((ROOT / ".ci" / "run-flags").read_text())
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
    assert done.stdout == "--default-user root\n"
    assert done.stderr.startswith(f"superd: user nobody cannot reach {private}")
