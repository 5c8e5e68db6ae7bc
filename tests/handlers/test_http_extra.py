"""Fields of the operator's are checked before the first request."""

from __future__ import annotations

import pytest

from superd.handlers.exits import SetupError
from superd.handlers.http.extra import check_cache_control, check_headers


def test_good_lines_are_sent_as_they_are_but_for_blanks():
    lines = ("X-Frame-Options:DENY", "Referrer-Policy:  no-referrer ", "X-Empty:")
    assert check_headers(lines) == (
        "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer",
        "X-Empty: ",
    )
    assert check_cache_control(" max-age=60, public ") == "max-age=60, public"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "is not NAME: VALUE"),
        ("X-Frame-Options", "is not NAME: VALUE"),
        (": DENY", "is not NAME: VALUE"),
        ("X Y: z", "is not NAME: VALUE"),
        ("X : z", "is not NAME: VALUE"),
        (" X: z", "is not NAME: VALUE"),
        ("X: a\r\nSet-Cookie: b", "is not NAME: VALUE"),
        ("X: a\nb", "is not NAME: VALUE"),
        ("X: \x7f", "is not NAME: VALUE"),
        ("X: \u00e4", "is not NAME: VALUE"),
        ("X\u00e4: a", "is not NAME: VALUE"),
        ("Content-Length: 5", "is set by httpd itself"),
        ("transfer-encoding: chunked", "is set by httpd itself"),
        ("Cache-Control: no-store", "use --cache-control"),
    ],
)
def test_a_line_that_would_break_an_answer_is_refused(line, problem):
    with pytest.raises(SetupError, match=problem):
        check_headers((line,))


@pytest.mark.parametrize("value", ["a\r\nb", "\0", "\u00e4"])
def test_a_cache_control_that_would_break_an_answer_is_refused(value):
    with pytest.raises(SetupError, match="is no value of a field"):
        check_cache_control(value)
