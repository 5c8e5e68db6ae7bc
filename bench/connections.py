"""Compare superd with its peers: short connections a second to /bin/cat, one process each.

    make bench                        # or: python bench/connections.py --rounds 5

The same load goes to each peer in turn (A B C A B C ...), so that a machine whose speed
drifts drifts for all; the figures are medians of the rounds. Every byte of every answer
is checked. Peers that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HELLO = b"hello superd\n"


class Load:
    """`together` clients that connect, send a line, half-close and read to the end."""

    def __init__(self, port: int, together: int) -> None:
        self._address = ("127.0.0.1", port)
        self._together = together
        self._selector = selectors.DefaultSelector()
        self.times: list[float] = []
        self.failed = 0

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for _ in range(self._together):
            self._start()
        while time.monotonic() < until:
            for key, _ in self._selector.select(1.0):
                self._step(key.fileobj, key.data)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _start(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._address)
        state = [time.monotonic(), b""]
        self._selector.register(sock, selectors.EVENT_WRITE, state)

    def _step(self, sock, state) -> None:
        try:
            if self._selector.get_key(sock).events == selectors.EVENT_WRITE:
                sock.send(HELLO)
                sock.shutdown(socket.SHUT_WR)
                self._selector.modify(sock, selectors.EVENT_READ, state)
                return
            data = sock.recv(4096)
        except OSError:
            self._end(sock, state, good=False)
            return
        state[1] += data
        if not data:
            self._end(sock, state, good=state[1] == HELLO)

    def _end(self, sock, state, *, good: bool) -> None:
        self._selector.unregister(sock)
        sock.close()
        if good:
            self.times.append(time.monotonic() - state[0])
        else:
            self.failed += 1
        self._start()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def superd(folder: Path, port: int) -> list[str]:
    file = folder / "superd.yaml"
    file.write_text(
        "log: {level: warning}\n"
        f"services: {{cat: {{listen: 127.0.0.1:{port}, exec: [/bin/cat], "
        "limits: {connections: 1000}}}\n"
    )
    return [sys.executable, "-m", "superd", "-c", str(file)]


def xinetd(folder: Path, port: int) -> list[str]:
    file = folder / "xinetd.conf"
    file.write_text(
        "service cat\n{\n type = UNLISTED\n socket_type = stream\n protocol = tcp\n"
        f" wait = no\n user = nobody\n server = /bin/cat\n port = {port}\n"
        " bind = 127.0.0.1\n instances = UNLIMITED\n per_source = UNLIMITED\n"
        " cps = 100000 1\n flags = IPv4\n}\n"
    )
    return ["xinetd", "-dontfork", "-f", str(file), "-pidfile", str(folder / "pid")]


def tcpserver(_folder: Path, port: int) -> list[str]:
    identity = ["-u", "65534", "-g", "65534"] if os.geteuid() == 0 else []
    flags = ["-RHl0", "-c", "1000", *identity]
    return ["tcpserver", *flags, "127.0.0.1", str(port), "/bin/cat"]


PEERS = {"superd": superd, "xinetd": xinetd, "tcpserver": tcpserver}


def cpu_of(pid: int) -> float:
    """Add up the CPU seconds of a process, its reaped children, and its live ones."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
            number = int(stat.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if number == pid or int(words[1]) == pid:
            ticks = sum(int(words[index]) for index in (11, 12, 13, 14))
            total += ticks / os.sysconf("SC_CLK_TCK")
    return total


class Peer:
    """One superserver, started; `measure` gives the figures of one round."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        (folder / name).mkdir()
        self._process = subprocess.Popen(
            PEERS[name](folder / name, self.port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        until = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > until:
                raise SystemExit(f"{name} does not answer")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def measure(self, seconds: float, together: int) -> tuple[float, float, float, int]:
        before = cpu_of(self._process.pid)
        load = Load(self.port, together)
        load.run(seconds)
        cpu = cpu_of(self._process.pid) - before
        count = len(load.times)
        p99 = sorted(load.times)[int(count * 0.99)] if count else float("nan")
        return count / seconds, 1000 * cpu / max(1, count), 1000 * p99, load.failed

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--together", type=int, default=8)
    given = parser.parse_args()
    names = [name for name in PEERS if name == "superd" or shutil.which(name)]
    for name in set(PEERS) - set(names):
        print(f"{name} is not installed and left out")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        peers = [Peer(name, Path(folder)) for name in names]
        rounds = {name: [] for name in names}
        try:
            for _ in range(given.rounds):
                for peer in peers:
                    figures = peer.measure(given.seconds, given.together)
                    rounds[peer.name].append(figures)
        finally:
            for peer in peers:
                peer.stop()
    print(f"{'':12} conns/s   ms CPU/conn   p99 ms   failed")
    for name, figures in rounds.items():
        rate, cpu, p99 = (
            statistics.median(one[index] for one in figures) for index in range(3)
        )
        failed = sum(one[3] for one in figures)
        print(f"{name:12} {rate:7.0f} {cpu:13.2f} {p99:8.1f} {failed:8}")


if __name__ == "__main__":
    main()
