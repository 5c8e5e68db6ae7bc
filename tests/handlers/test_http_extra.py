"""Fields of the operator's are checked before the first request."""

from __future__ import annotations

import os

import pytest

from superd.handlers.exits import SetupError
from superd.handlers.http.caching import CacheControl
from superd.handlers.http.extra import check_headers


def test_good_fields_are_sent_as_they_are_but_for_blanks():
    pairs = [
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", " no-referrer "),
        ("X", ""),
    ]
    assert check_headers(pairs) == (
        "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer",
        "X: ",
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.css", "long"),
        ("sub/a.css", "long"),
        ("assets/x/a.js", "assets"),
        ("assets/a.css", "long"),
        ("app.3f2a.js", "hashed"),
        ("index.html", "no-cache"),
        ("assets", "no-cache"),
        ("\udcff.css", "long"),
    ],
)
def test_the_first_pattern_that_fits_says_how_long_a_file_is_kept(path, value):
    control = CacheControl(
        [
            ("*.css", "long"),
            ("/assets/*", "assets"),
            ("app.????.js", " hashed "),
            ("*", "no-cache"),
            ("*.html", "never reached"),
        ]
    )
    assert control.of(os.fsencode(path).split(b"/")) == value


def test_without_a_pattern_that_fits_nothing_is_said():
    assert CacheControl([("*.css", "long")]).of([b"a.html"]) == ""
    assert CacheControl([]).of([b"a.html"]) == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "is no field"),
        (": DENY", "is no field"),
        ("X Y: z", "is no field"),
        ("X : z", "is no field"),
        (" X: z", "is no field"),
        ("X: a\r\nSet-Cookie: b", "is no field"),
        ("X: a\nb", "is no field"),
        ("X: \x7f", "is no field"),
        ("X: \u00e4", "is no field"),
        ("X\u00e4: a", "is no field"),
        ("Content-Length: 5", "is set by httpd itself"),
        ("transfer-encoding: chunked", "is set by httpd itself"),
        ("Cache-Control: no-store", "use --cache-control"),
    ],
)
def test_a_line_that_would_break_an_answer_is_refused(line, problem):
    name, _, value = line.partition(":")
    with pytest.raises(SetupError, match=problem):
        check_headers([(name, value)])


@pytest.mark.parametrize("value", ["a\r\nb", "\0", "\u00e4"])
def test_a_cache_control_that_would_break_an_answer_is_refused(value):
    with pytest.raises(SetupError, match="is no value of a field"):
        CacheControl([("*", value)])
