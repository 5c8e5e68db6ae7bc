"""The wheel, installed where no source tree is: the command and its shared files."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

import superd

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed():
    """A venv with the wheel; of this environment it sees the dependencies only."""
    with tempfile.TemporaryDirectory(prefix="superd-wheel-") as name:
        os.chmod(name, 0o755)  # for user nobody as well
        yield install(Path(name))


def install(folder):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("superd-*.whl")
    venv = folder / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True
    )
    (site,) = venv.glob("lib/python3*/site-packages")
    # A path in a .pth file is searched, but its own .pth files are not read: an editable
    # install of the checkout stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    into = [*pip, "--python", str(venv / "bin" / "python"), "install", "--no-index"]
    into += ["--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run(into, check=True)
    return venv


def run(venv, *arguments):
    return subprocess.run(
        [str(venv / "bin" / "superd"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    )


def test_the_command_is_the_installed_one_and_says_its_version(installed):
    done = run(installed, "--version")
    assert (done.returncode, done.stdout) == (0, f"superd {superd.__version__}\n")
    code = "import superd; print(superd.__file__)"
    where = subprocess.run(
        [str(installed / "bin" / "python"), "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert where.stdout.startswith(str(installed))


def test_it_checks_the_shipped_file(installed):
    # In a checkout that user nobody cannot reach, `make run` adds a flag.
    flags = ["sh", str(ROOT / ".ci" / "run-flags")]
    said = subprocess.run(flags, capture_output=True, text=True, check=True)
    file = str(ROOT / "etc" / "superd.yaml")
    done = run(installed, *said.stdout.split(), "-t", "-c", file)
    assert done.returncode == 0, done.stderr
    assert ": OK (" in done.stdout


@pytest.mark.parametrize(
    "handler", ["chargen", "daytime", "discard", "echo", "finger", "time"]
)
def test_it_finds_its_handlers_by_name(installed, handler):
    done = run(installed, "-t", "-l", "127.0.0.1:0", "--handler", handler)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lib/systemd/system/superd.service", "systemd/superd.service"),
        ("lib/systemd/system/superd.socket", "systemd/superd.socket"),
        ("share/doc/superd/unprivileged.conf", "systemd/unprivileged.conf"),
        ("share/doc/superd/superd.yaml", "etc/superd.yaml"),
    ],
)
def test_the_shared_files_are_there_as_they_are_here(installed, name, source):
    assert (installed / name).read_bytes() == (ROOT / source).read_bytes()


def test_every_module_is_in_the_wheel(installed):
    (site,) = installed.glob("lib/python3*/site-packages")
    there = {str(path.relative_to(site)) for path in site.glob("superd/**/*.py")}
    here = {str(path.relative_to(ROOT)) for path in ROOT.glob("superd/**/*.py")}
    assert there == here
