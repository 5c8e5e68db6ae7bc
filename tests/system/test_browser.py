"""httpd in a real browser: what a person sees of a listing, a recording, an error."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import urllib.request
import wave
from pathlib import Path
from typing import NamedTuple

import pytest
from browser import Driver
from daemon_under_test import DEADLINE, DaemonFactory

pytestmark = pytest.mark.slow

STAMP = 1_000_000_000  # 2001-09-09 01:46:40
HOSTILE = [
    "<img src=x onerror=alert(1)>.txt",
    "<script>alert(1)<",
    "javascript:alert(1)",
    "javascript:alert(1).txt",
    "data:text,alert(1).txt",
    "127.0.0.1:1.txt",
    "\" onmouseover=alert(1) x='.txt",
    "'single'.txt",
    "with  two  spaces.txt",
    "percent%2e%2e%2f.txt",
    "query?sort=size&order=desc#top.txt",
    "&lt;entity&gt;.txt",
    "back\\slash.txt",
    "köttbullar ☃ 日本語 🎉.txt",
    "e\u0301 is not \u00e9.txt",
    "a" * 240 + ".txt",
]
STEERS = {  # names that would turn or split the line they are in
    "right\u202etxt.exe": "right\ufffdtxt.exe",
    "line\nfeed.txt": "line\ufffdfeed.txt",
    b"no text \xff\xfe.txt": "no text \ufffd\ufffd.txt",
}


class Site(NamedTuple):
    """The folder that superd serves, and where."""

    root: Path
    url: str


@pytest.fixture(scope="module")
def site():
    """Serve a folder by a superd of the command line, for all tests of this file."""
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    root = folder / "root"
    root.mkdir(mode=0o755)
    factory = DaemonFactory(folder)
    listen = ["-l", "127.0.0.1:0", "--handler", "httpd"]
    options = ["-o", f"root={root}", "-o", "listing=true"]
    try:
        daemon = factory("", arguments=[*listen, *options])
        host, port = daemon.address("httpd")
        yield Site(root, f"http://{host}:{port}/")
    finally:
        try:
            factory.finish()
        finally:
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def program(site):
    """Start the browser, which takes a second: once. It leaves before the server does."""
    driver = Driver()
    try:
        yield driver.browser()
    finally:
        driver.close()


@pytest.fixture
def browser(program):
    """Give a window that has never been anywhere."""
    program.renew()
    return program


@pytest.fixture
def root(site):
    """Make a folder of its own for a test."""
    folder = Path(tempfile.mkdtemp(dir=site.root))
    folder.chmod(0o755)
    return folder


@pytest.fixture
def url(site, root):
    """Say where the folder of the test is; with the slash."""
    return f"{site.url}{root.name}/"


def write(folder, name, data: bytes = b"", stamp: int = STAMP) -> None:
    """Write a file that everybody may read."""
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o644)
    os.utime(path, (stamp, stamp))


def rows(browser) -> list[list[str]]:
    """Return the texts of a listing, row by row, without the way back."""
    cells = browser.texts("tbody td")
    assert cells[:3] == ["../", "", ""]
    return [cells[place : place + 3] for place in range(3, len(cells), 3)]


def names(browser) -> list[str]:
    return [row[0] for row in rows(browser)]


def fetch(url: str) -> bytes:
    """Ask for an address as a program that is no browser."""
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return answer.read()


# -- a listing -------------------------------------------------------------------------


def test_a_listing_has_the_name_size_and_date_of_each_entry(browser, root, url):
    write(root, "small.txt", b"x" * 999)
    write(root, "large.bin", b"x" * 1_500_000, STAMP + 86400)
    (root / "folder").mkdir(mode=0o755)
    os.utime(root / "folder", (STAMP, STAMP))
    browser.open(url)
    assert browser.texts("h1") == [f"/{root.name}/"]
    assert rows(browser) == [
        ["folder/", "", "2001-09-09 01:46"],
        ["large.bin", "1.5 MB", "2001-09-10 01:46"],
        ["small.txt", "999 B", "2001-09-09 01:46"],
    ]
    assert browser.complaints() == []


def test_a_hostile_name_is_text_and_its_link_leads_to_its_file(browser, root, url):
    for name in [*HOSTILE, *STEERS]:
        write(root, name, b"content of " + os.fsencode(name))
    browser.open(url)
    shown = {name: name for name in HOSTILE} | STEERS
    assert sorted(names(browser)) == sorted(shown.values())
    assert (
        browser.ask("document.querySelectorAll('img, script, [onerror]').length") == 0
    )
    places = browser.ask("[...document.querySelectorAll('td a')].map(x => x.href)")
    found = dict(zip(names(browser), places[1:], strict=True))
    for name, text in shown.items():
        assert found[text].startswith(url), name
        assert fetch(found[text]) == b"content of " + os.fsencode(name), name
    assert browser.alert() is None
    assert browser.complaints() == []


def test_the_same_name_as_html_of_a_page_does_open_an_alert(browser, root, url):
    """Negative control: an alert that opens would have been seen."""
    write(root, "page.html", HOSTILE[0].encode())
    browser.open(f"{url}page.html")
    assert browser.alert() == "1"


def test_a_click_on_a_hostile_name_shows_the_file(browser, root, url):
    clicked = [HOSTILE[place] for place in (0, 3, 6, 10, 12, 13)]
    for name in clicked:
        write(root, name, b"content of " + name.encode())
    browser.open(url)
    for number, name in enumerate(names(browser), 2):
        browser.click(f"tr:nth-child({number}) td a")
        assert browser.texts("pre") == [f"content of {name}"]
        browser.back()
    assert number == len(clicked) + 1
    assert browser.alert() is None


def test_a_click_on_the_head_of_a_column_sorts_and_another_turns_it(browser, root, url):
    sizes = {"a.txt": 20, "b.txt": 3, "c.txt": 100}
    stamps = {"a.txt": 3, "b.txt": 1, "c.txt": 2}
    for name, size in sizes.items():
        write(root, name, b"x" * size, STAMP + 86400 * stamps[name])
    browser.open(url)
    for column, order in [
        ("Size", ["b.txt", "a.txt", "c.txt"]),
        ("Modified (UTC)", ["b.txt", "c.txt", "a.txt"]),
        ("Name", ["a.txt", "b.txt", "c.txt"]),
    ]:
        browser.click_link(column)
        assert names(browser) == order, column
        browser.click_link(column)
        assert names(browser) == order[::-1], column
    assert browser.ask("document.querySelectorAll('th[aria-sort]').length") == 1


def test_a_directory_is_entered_and_left_and_keeps_the_order(browser, root, url):
    write(root, "first.txt", b"x")
    (root / "folder é").mkdir(mode=0o755)
    write(root / "folder é", "inside.txt", b"within")
    browser.open(url)
    browser.click_link("Size")
    browser.click_link("folder é/")
    assert browser.texts("h1") == [f"/{root.name}/folder é/"]
    assert names(browser) == ["inside.txt"]
    assert browser.path == f"/{root.name}/folder%20%C3%A9/?sort=size&order=asc"
    browser.click_link("inside.txt")
    assert browser.texts("pre") == ["within"]
    browser.back()
    browser.back()
    assert names(browser) == ["folder é/", "first.txt"]
    browser.click_link("folder é/")
    browser.click_link("../")
    assert names(browser) == ["folder é/", "first.txt"]


def test_a_listing_works_without_javascript(browser, root, url):
    write(root, "page.html", b"<title>off</title><script>document.title='on'</script>")
    write(root, "small.txt", b"x")
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(f"{url}page.html")
    assert browser.title == "off"
    browser.open(url)
    browser.click_link("Size")
    assert names(browser) == ["small.txt", "page.html"]


# -- how it looks ----------------------------------------------------------------------

COLOURS = """(() => {
    const colour = (one, what) => getComputedStyle(document.querySelector(one))[what];
    return [colour("body", "backgroundColor"), colour("body", "color"),
            colour("a", "color"), colour("td:nth-child(2)", "color"),
            colour("p", "color")];
})()"""


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return sum(x * y for x, y in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    lower, higher = sorted((luminance(one), luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def test_a_listing_is_light_or_dark_as_the_browser_is_and_can_be_read(
    browser, root, url
):
    write(root, "file.txt")
    grounds = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(url)
        ground, *inks = browser.ask(COLOURS)
        grounds[scheme] = luminance(ground)
        for ink in inks:
            assert contrast(ground, ink) >= 4.5, (scheme, ground, ink)  # WCAG 2 AA
    assert grounds["light"] > 0.8
    assert grounds["dark"] < 0.1


def test_a_listing_fits_a_telephone(browser, root, url):
    for name in ["file.txt", *HOSTILE]:
        write(root, name, b"x" * 123_456)
    browser.resize(360, 740)
    browser.open(url)
    sizes = "[document.documentElement.scrollWidth, innerWidth]"
    assert browser.ask(sizes) == [360, 360]


# -- other pages -----------------------------------------------------------------------


def test_a_recording_is_sought_by_ranges(browser, root, url):
    with wave.open(str(root / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16 << 20))
    (root / "sound.wav").chmod(0o644)
    write(root, "page.html", b"<audio src=sound.wav preload=metadata controls></audio>")
    browser.open(f"{url}page.html")
    moment, duration = browser.wait(
        """const sound = document.querySelector("audio");
        const seek = () => { sound.currentTime = sound.duration - 5; };
        sound.onseeked = () => done([sound.currentTime, sound.duration]);
        sound.onerror = () => done([sound.error.message, 0]);
        sound.readyState ? seek() : sound.onloadedmetadata = seek;"""
    )
    assert duration == pytest.approx((8 << 20) / 8000, abs=0.1)
    assert moment == pytest.approx(duration - 5, abs=0.1)
    answers = [
        (answer["status"], headers.get("content-range", ""))
        for event in browser.network("responseReceived")
        for answer in [event["response"]]
        for headers in [{key.lower(): x for key, x in answer["headers"].items()}]
        if answer["url"] == f"{url}sound.wav"
    ]
    assert {status for status, _ in answers} == {206}, answers
    starts = [int(re.match(r"bytes (\d+)-", text)[1]) for _, text in answers]
    assert starts[0] == 0
    assert starts[-1] > 15 << 20, answers


def test_an_error_is_a_page_with_a_title(browser, root, url):
    browser.open(f"{url}nothing%3Cscript%3Ealert(1)%3C/script%3E")
    assert browser.title == "404 Not Found"
    assert browser.texts("h1") == ["404 Not Found"]
    assert browser.texts("p") == ["There is no such file."]
    assert browser.alert() is None
