"""Get what the benchmark runs: the peers from Debian, the C programs from beside this file.

Whatever is missing is installed with apt-get, and no daemon of it is started. inetds are
another matter: Debian lets one be installed at a time, and would remove the one that is
there. A missing one is unpacked beside the C programs, in build/bench, and run from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package, the program wanted of it, and whether it can be only unpacked."""

    name: str
    program: str
    unpack: bool = False
    needs: tuple[str, ...] = ()


PACKAGES = (
    Package("xinetd", "xinetd", True, ("libtirpc3", "libwrap0")),
    Package("openbsd-inetd", "inetd", True, ("libbsd0", "libevent-2.1-7", "libtirpc3")),
    Package("ucspi-tcp", "tcpserver"),
    Package("socat", "socat"),
    Package("micro-httpd", "micro-httpd"),
    Package("nginx-light", "nginx"),
    Package("tinyproxy-bin", "tinyproxy"),
    Package("squid", "squid"),
    Package("gcc", "cc", needs=("libc6-dev",)),
)


def install() -> tuple[dict[str, str], dict[str, str]]:
    """Get all of it: the paths of programs by name, the versions of packages by name.

    A peer that cannot be had is in neither: its rows are left out, and named. Without a C
    compiler there is no load, and subprocess.CalledProcessError says so.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    missing = [package for package in PACKAGES if find(package.program) is None]
    if missing:
        _get(missing)
    programs = {}
    for package in PACKAGES:
        path = find(package.program)
        if path is not None:
            programs[package.program] = path
    for name in ("load", "slow", "limit", "pour"):
        binary = BUILD / name
        compiler = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(binary)]
        subprocess.run([*compiler, str(HERE / f"{name}.c")], check=True)
        programs[name] = str(binary)
    peers = [one for one in PACKAGES if one.program in programs and one.name != "gcc"]
    return programs, {one.name: _version(one) for one in peers}


def find(program: str) -> str | None:
    """Find a program where it is installed, or where it was unpacked."""
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    return shutil.which(program, path=os.pathsep.join([*places, str(BUILD / "peers")]))


def _get(missing: list[Package]) -> None:
    if shutil.which("apt-get") is None:
        print("no apt-get: peers that are not installed are left out")
        return
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    made = not POLICY.exists()
    if made:  # 101: no daemon may start because its package is installed
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for package in missing:
            names = [*package.needs, *([] if package.unpack else [package.name])]
            _apt("install", "-qq", "-y", "--no-install-recommends", *names)
            if package.unpack:
                _unpack(package)
    finally:
        if made:
            POLICY.unlink()


def _apt(*arguments: str, cwd: Path | None = None) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *arguments]
    done = subprocess.run(
        command, check=False, cwd=cwd, env=environment, stdout=subprocess.DEVNULL
    )
    return done.returncode == 0


def _unpack(package: Package) -> None:
    """Take the program out of its package, without installing that."""
    folder = BUILD / f"deb-{package.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if not _apt("download", "-qq", package.name, cwd=folder):
        return
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    (BUILD / "peers").mkdir(exist_ok=True)
    found = folder / "usr" / "sbin" / package.program
    shutil.copy(found, BUILD / "peers" / package.program)
    (BUILD / "peers" / f"{package.name}.version").write_text(archive.name.split("_")[1])


def _version(package: Package) -> str:
    noted = BUILD / "peers" / f"{package.name}.version"
    if noted.exists() and str(BUILD) in (find(package.program) or ""):
        return noted.read_text()
    ask = ["dpkg-query", "-W", "-f", "${Version}", package.name]
    done = subprocess.run(ask, check=False, capture_output=True, text=True)
    return done.stdout or "not from a package"
