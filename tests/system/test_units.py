"""The shipped units are what systemd understands, and as closed as they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
ROOT_LEVEL, OWN_LEVEL = 60, 25
"""Tenths of systemd's exposure score; an ordinary service without fences has 96."""


def analyze(*arguments):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    done = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    """The units as they would be installed, with a program that exists."""
    for name in ("superd.service", "superd.socket"):
        text = (
            (UNITS / name)
            .read_text()
            .replace("ExecStart=superd", "ExecStart=/bin/true")
        )
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("own_user", [False, True])
def test_systemd_finds_nothing_to_say_about_the_units(folder, own_user):
    if own_user:
        (folder / "superd.service.d").mkdir()
        shutil.copy(UNITS / "unprivileged.conf", folder / "superd.service.d")
    units = [str(folder / name) for name in ("superd.service", "superd.socket")]
    status, text = analyze("verify", "--man=no", *units)
    lines = [line for line in text.splitlines() if "superd" in line]
    assert (status, lines) == (0, []), text


@pytest.mark.parametrize(
    ("own_user", "level"), [(False, ROOT_LEVEL), (True, OWN_LEVEL)]
)
def test_the_exposure_stays_below_what_was_reached(folder, own_user, level):
    if "--offline" not in analyze("--help")[1]:
        pytest.skip("systemd-analyze is older than 250: it has no security --offline")
    unit = folder / "superd.service"
    if own_user:
        drop_in = (UNITS / "unprivileged.conf").read_text()
        unit.write_text(unit.read_text() + drop_in)
    status, text = analyze(
        "security", "--offline=yes", "--no-pager", f"--threshold={level}", str(unit)
    )
    assert status == 0, text.splitlines()[-1]


def test_every_setting_of_the_service_has_its_reason_above_it():
    for name in ("superd.service", "superd.socket", "unprivileged.conf"):
        reason = False
        for line in (UNITS / name).read_text().splitlines():
            if line.startswith("#"):
                reason = True
            elif not line or line.startswith("["):
                reason = False
            elif re.match(r"(Description|Documentation|Service|WantedBy)=", line):
                continue
            else:
                assert reason, f"{name}: {line}"


def test_the_service_does_not_restart_after_a_wrong_command_line_or_configuration():
    text = (UNITS / "superd.service").read_text()
    assert "RestartPreventExitStatus=64 78" in text
