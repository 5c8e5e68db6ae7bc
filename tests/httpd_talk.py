"""Ask httpd one question at a time, in a process or in a loop, over a real connection."""

from __future__ import annotations

import zlib

from inetd import fork
from looped import in_loop

from superd.handlers import httpd

MAINS = {"process": httpd.main, "loop": in_loop(httpd)}


def asker(mode, root):
    """Return a function that asks for a path; it returns status, fields, body, log."""

    def ask(path, *fields, flags=(), method="GET", host="x", where=root):
        lines = [f"{method} {path} HTTP/1.1", *fields, "Connection: close"]
        if host is not None:
            lines.insert(1, f"Host: {host}")
        with fork(MAINS[mode], "--root", str(where), *flags) as served:
            answer = served.send("\r\n".join([*lines, "", ""]).encode()).read()
            served.end()
            assert served.wait() == 0, served.log
            log = served.log
        return (*split(answer), log)

    return ask


def main_for(request):
    """Return the main of one mode: half of the tests have one of them, half the other.

    One conversation serves in both, and the corpus is played in both.
    """
    return list(MAINS.values())[zlib.crc32(request.node.name.encode()) % len(MAINS)]


def split(answer):
    """Cut an answer into its status, its fields and its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return int(lines[0][9:12]), dict(line.split(": ", 1) for line in lines[1:]), body


def write(path, data, mode=0o644):
    """Make a file that everybody may read, and the folders above it."""
    missing = [one for one in path.parents if not one.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        folder.chmod(0o755)
    path.write_bytes(data)
    path.chmod(mode)
    return path
