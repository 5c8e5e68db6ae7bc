"""Make the folder that the httpd tests serve, with everything that must not leak."""

from __future__ import annotations

import os

STAMP = 1_000_000_000  # Sun, 09 Sep 2001 01:46:40 GMT
SECRET = b"the secret\n"


def make_root(tmp_path):
    """Build tmp_path/outside and tmp_path/root; returns the root."""
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    for folder in (outside, root, root / "sub", root / "sub" / "deep", root / "empty"):
        folder.mkdir()
    for folder in (root / ".hidden", root / ".well-known", root / "closed"):
        folder.mkdir()
    files = {
        outside / "secret.txt": SECRET,
        root / "index.html": b"<h1>root</h1>\n",
        root / "hello.txt": b"hello\n",
        root / "empty.txt": b"",
        root / "big.bin": bytes(range(256)) * 4096,
        root / "with space & <b>.txt": b"odd\n",
        root / "noext": b"?\n",
        root / "sub" / "index.html": b"<h1>sub</h1>\n",
        root / "sub" / "deep" / "page.html": b"deep\n",
        root / ".hidden" / "secret.txt": SECRET,
        root / ".htpasswd": SECRET,
        root / "closed" / "secret.txt": SECRET,
        root / "private.txt": SECRET,
        root / ".well-known" / "security.txt": b"contact\n",
        root / ".well-known" / ".secret": SECRET,
    }
    for path, data in files.items():
        path.write_bytes(data)
    links = {
        root / "inside": "hello.txt",
        root / "sub" / "up": "../hello.txt",
        root / "sub" / "subdir": "deep/",
        root / "data": ".hidden/../sub",
        root / "outside": "../outside/secret.txt",
        root / "outdir": "../outside",
        root / "absolute": str(outside / "secret.txt"),
        root / "absolute_inside": str(root / "hello.txt"),
        root / "loop": "loop",
        root / "dangling": "nothing",
        root / "through": "hello.txt/",
        root / "sub" / "zigzag": "../../root/hello.txt",
    }
    for path, target in links.items():
        path.symlink_to(target)
    os.mkfifo(root / "fifo")
    for folder, _, names in os.walk(tmp_path):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            os.chmod(path, 0o644)
            os.utime(path, (STAMP, STAMP))
    (root / "private.txt").chmod(0o640)
    (root / "closed").chmod(0o750)
    return root


def make_small_and_big(tmp_path, size):
    """Build a folder with small.txt, and big.bin of this many zeros; returns it."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / "small.txt").write_bytes(b"here\n")
    with open(root / "big.bin", "wb") as file:
        file.truncate(size)
    for path in root.iterdir():
        path.chmod(0o644)
    return root
