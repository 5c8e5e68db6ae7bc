"""Drive a real browser, Chromium, by the WebDriver protocol of its chromedriver.

One process of ours stands above both: it adopts what they leave behind, and when its stdin
ends (or we do) it kills every one of them by its pid and waits until the last is gone. All
that they write is in a folder of their own.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from daemon_under_test import DEADLINE, ready

_SHIM = """
import ctypes, os, signal, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
null = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 2)]
os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
os.close(1)
os.read(0, 1)
while True:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for pid in file.read().split():
            os.kill(int(pid), signal.SIGKILL)
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        break
"""

_FLAGS = [
    "--headless=new",
    "--no-sandbox",  # root, and the kernels of containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-features=SpareRendererForSitePerProcess,OptimizationHints,Translate",
    "--no-proxy-server",
    # Whatever it wants to look up, it finds nobody: its traffic stays on this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1000,700",
]
# An empty page to begin with: the usual one takes half a second.
_PREFERENCES = {"session": {"restore_on_startup": 4, "startup_urls": ["about:blank"]}}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class BrowserError(Exception):
    """What chromedriver refused: its name for it, and its message."""


class Driver:
    """One chromedriver, which starts browsers."""

    def __init__(self) -> None:
        programs = [_need("chromedriver", "chromium-driver")]
        self._chromium = _need("chromium", "chromium")
        self.folder = Path(tempfile.mkdtemp(prefix="superd-browser-"))
        (self.folder / "tmp").mkdir()
        home = str(self.folder)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SHIM, *programs, "--port=0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "HOME": home,
                "TMPDIR": f"{home}/tmp",
                "XDG_CACHE_HOME": home,
                "XDG_CONFIG_HOME": home,
                "XDG_RUNTIME_DIR": home,
            },
            start_new_session=True,
        )
        try:
            self.port = self._wait_port()
        except BaseException:
            self.close()
            raise

    def _wait_port(self) -> int:
        """Read the port that it chose from what it prints."""
        fd, text = self._process.stdout.fileno(), b""
        until = time.monotonic() + DEADLINE
        while not (found := re.search(rb"started successfully on port (\d+)", text)):
            assert ready([fd], max(until - time.monotonic(), 0)), text
            data = os.read(fd, 4096)
            assert data, f"chromedriver ended: {text!r}"
            text += data
        return int(found[1])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send it a command; returns the value of the answer. Raises BrowserError."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=DEADLINE
        )
        try:
            data = None if method != "POST" else json.dumps(body or {}).encode()
            connection.request(method, path, data)
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise BrowserError(value["error"], value["message"])
        return value

    def browser(self) -> Browser:
        """Start a browser with a profile of its own; it ends with the driver."""
        profile = tempfile.mkdtemp(prefix="profile-", dir=self.folder)
        options = {
            "browserName": "chrome",
            "timeouts": {"script": 10_000, "pageLoad": 10_000},
            "goog:chromeOptions": {
                "binary": self._chromium,
                "args": [*_FLAGS, f"--user-data-dir={profile}"],
                "prefs": _PREFERENCES,
            },
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        asked = {"capabilities": {"alwaysMatch": options}}
        return Browser(self, self.call("POST", "/session", asked)["sessionId"])

    def close(self) -> None:
        """End it with every browser of it, and remove what they wrote."""
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            shutil.rmtree(self.folder)


class Browser:
    """One browser with one window."""

    def __init__(self, driver: Driver, session: str) -> None:
        self._driver = driver
        self._path = f"/session/{session}"

    def _get(self, what: str) -> Any:
        return self._driver.call("GET", f"{self._path}/{what}")

    def _post(self, what: str, **body: Any) -> Any:
        return self._driver.call("POST", f"{self._path}/{what}", body)

    def renew(self) -> None:
        """Go on with a new window that has been nowhere, and with empty logs."""
        handle = self._post("window/new", type="tab")["handle"]
        self._driver.call("DELETE", f"{self._path}/window")
        self._post("window", handle=handle)
        self._post("se/log", type="performance")
        self._post("se/log", type="browser")

    # -- going about -------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go there; returns when the page is loaded."""
        self._post("url", url=url)

    def back(self) -> None:
        """Go back by the browser's own button."""
        self._post("back")

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds."""
        self.press(self._post("element", using="css selector", value=selector))

    def click_link(self, text: str) -> None:
        """Click the link with exactly this text."""
        self.press(self._post("element", using="link text", value=text))

    def press(self, element: dict[str, str]) -> None:
        """Click an element, as a person would: it must be seen."""
        self._post(f"element/{element[_ELEMENT]}/click")

    # -- asking ------------------------------------------------------------------------

    @property
    def title(self) -> str:
        return self._get("title")

    @property
    def path(self) -> str:
        """What of the address bar the server has to understand."""
        parts = urlsplit(self._get("url"))
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def ask(self, expression: str, *arguments: Any) -> Any:
        """Evaluate a JavaScript expression in the page."""
        return self._post("execute/sync", script=f"return {expression}", args=arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """Run a script that calls done(value), and wait for that."""
        script = f"const done = arguments[arguments.length - 1]; {script}"
        return self._post("execute/async", script=script, args=arguments)

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element that a CSS selector finds."""
        found = "[...document.querySelectorAll(arguments[0])].map(x => x.textContent)"
        return self.ask(found, selector)

    def alert(self) -> str | None:
        """Close an alert that is open and return its text; None: there is none."""
        try:
            text = self._get("alert/text")
        except BrowserError as error:
            if error.args[0] != "no such alert":
                raise
            return None
        self._post("alert/accept")
        return text

    def screenshot(self) -> bytes:
        """Return what the window shows, as a PNG."""
        return base64.b64decode(self._get("screenshot"))

    # -- being another browser ---------------------------------------------------------

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Say something in the protocol of its developer tools."""
        return self._post("goog/cdp/execute", cmd=command, params=parameters)

    def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark` pages."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Be a telephone."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=True,
        )

    def network(self, kind: str) -> list[dict[str, Any]]:
        """Return the parameters of each such event of the network since the last call."""
        lines = self._post("se/log", type="performance")
        events = [json.loads(line["message"])["message"] for line in lines]
        return [x["params"] for x in events if x["method"] == f"Network.{kind}"]

    def complaints(self) -> list[str]:
        """Return what its console says since the last call."""
        return [line["message"] for line in self._post("se/log", type="browser")]


def _need(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program} here: apt-get install {package}")
    return path
