"""Make hosts: network namespaces on one switch, each by a veth pair whose link can be cut.

A link that is cut is silent: no RST, no FIN, nothing is told to anybody. That is what
distinguishes a host that is lost from one whose program has failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress

import pytest


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


class Hosts:
    """`count` hosts with the addresses 10.99.0.1, 10.99.0.2, ..."""

    def __init__(self, count):
        self._tag = f"superd-{os.getpid()}"
        self._switch = f"{self._tag}-switch"
        self._names = []
        try:
            self._add(self._switch)
            ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            ip("-n", self._switch, "link", "set", "br0", "up")
            for number in range(1, count + 1):
                self._join(number)
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")

    def _add(self, name):
        ip("netns", "add", name)
        self._names.append(name)

    def _join(self, number):
        name, port = f"{self._tag}-{number}", f"port{number}"
        self._add(name)
        pair = ("link", "add", port, "type", "veth", "peer", "name", "eth0")
        ip("-n", self._switch, *pair, "netns", name)
        ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")

    def address(self, number):
        return f"10.99.0.{number}"

    def on(self, number):
        """What to put before a command so that it runs on a host."""
        return [shutil.which("ip") or "ip", "netns", "exec", f"{self._tag}-{number}"]

    def add_address(self, number, address):
        """Give a host one more address, of a network of 256."""
        name = f"{self._tag}-{number}"
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")

    def cut(self, number):
        """Cut the link of a host."""
        ip("-n", self._switch, "link", "set", f"port{number}", "down")

    def received(self, number):
        """The bytes that a host has received over its link."""
        show = ["ip", "-n", f"{self._tag}-{number}", "-s", "-j", "link", "show", "eth0"]
        done = subprocess.run(show, check=True, capture_output=True)
        return json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"]

    def close(self):
        for name in reversed(self._names):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
        self._names.clear()
