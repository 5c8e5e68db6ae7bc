"""How hypothesis works here, as for the handlers: no clock of its own and no folder.

And certificates, which the command openssl makes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

settings.register_profile("pipe", deadline=None, database=None, print_blob=True)
settings.load_profile("pipe")

LOCAL = "DNS:localhost,IP:127.0.0.1"


class Certificate(NamedTuple):
    """The files of one end, and how superd-pipe and the handler are told of them."""

    certificate: str
    key: str
    ca: str

    @property
    def flags(self):
        return [
            *("--tls-cert", self.certificate),
            *("--tls-key", self.key),
            *("--tls-ca", self.ca),
        ]

    @property
    def options(self):
        return self._asdict()

    @property
    def handler_flags(self):
        return [w for k, v in self._asdict().items() for w in (f"--tls.{k}", v)]


class Authority:
    """A CA, and the certificates that it has signed."""

    def __init__(self, folder, name):
        self._folder = folder / name
        self._folder.mkdir(mode=0o755)
        self._made = {}
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._new = ("req", *curve, "-subj", f"/CN={name}")
        self._openssl(
            *self._new, "-x509", "-days", "1", "-keyout", "ca.key", "-out", "ca"
        )

    def issue(self, names=LOCAL, usage="", *, expired=False):
        """Return a certificate with these names (subjectAltName)."""
        what = (names, usage, expired)
        if what not in self._made:
            self._made[what] = self._sign(f"{len(self._made)}", *what)
        return self._made[what]

    def _sign(self, stem, names, usage, expired):
        lines = [f"subjectAltName={names}"]
        lines += [f"extendedKeyUsage={usage}"] if usage else []
        (self._folder / "extensions").write_text("\n".join(lines))
        self._openssl(*self._new, "-keyout", f"{stem}.key", "-out", "request")
        words = ["x509", "-req", "-in", "request", "-CA", "ca", "-CAkey", "ca.key"]
        words += ["-CAcreateserial", "-extfile", "extensions", "-out", stem]
        try:
            self._openssl(*words, "-days", "-1" if expired else "1")
        except subprocess.CalledProcessError:
            # Since OpenSSL 3.4 a time may be told, and must not end before it begins.
            times = ("-not_before", "20200101000000Z", "-not_after", "20200102000000Z")
            self._openssl(*words, *times)
        files = (self._folder / name for name in (stem, f"{stem}.key", "ca"))
        return Certificate(*map(str, files))

    def _openssl(self, *words):
        subprocess.run(
            ["openssl", *words], cwd=self._folder, check=True, capture_output=True
        )


@pytest.fixture(scope="session")
def authorities():
    """Make CAs by name: the same name is the same CA."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here, which makes the certificates")
    with tempfile.TemporaryDirectory(prefix="superd-test-ca-") as folder:
        Path(folder).chmod(0o755)
        made = {}

        def authority(name="ours"):
            if name not in made:
                made[name] = Authority(Path(folder), name)
            return made[name]

        yield authority


@pytest.fixture(scope="session")
def ours(authorities):
    """The CA of all ends that are to trust each other."""
    return authorities("ours")
