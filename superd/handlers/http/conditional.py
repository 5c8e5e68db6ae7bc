"""Decide whether the peer needs what it asks for (RFC 9110 8.8, 13).

The rule of the file: a condition that cannot be read is handled as RFC 9110 says for
each field: a date is ignored, a list of entity tags matches nothing. Either way the peer
gets a true answer, only not the short one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http.response import DAYS, MONTHS

if TYPE_CHECKING:
    from superd.handlers.http.request import Request

CONDITIONS: Final = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
SETTLED: Final = 2.0
"""Seconds after which a file is taken to be done with: before, a second write may fall
into the same tick of the file system's clock and leave the tag as it is (8.8.1)."""

_TAG: Final = re.compile(rb'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|\Z)')
_WEEKDAYS: Final = ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")
_CLOCK: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS: Final = tuple(
    re.compile(pattern.replace("MONTH", f"(?P<month>{'|'.join(MONTHS)})"), re.ASCII)
    for pattern in (
        # IMF-fixdate, that of RFC 850, and that of asctime (5.6.7).
        rf"(?:{'|'.join(DAYS)}), (?P<day>\d\d) MONTH (?P<year>\d{{4}}) {_CLOCK} GMT",
        rf"(?:{'|'.join(_WEEKDAYS)})day, (?P<day>\d\d)-MONTH-(?P<year>\d\d) {_CLOCK} GMT",
        rf"(?:{'|'.join(DAYS)}) MONTH (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})",
    )
)
_DAY: Final = 86400
_YEAR: Final = 365.2425 * _DAY


class Validators(NamedTuple):
    """What tells one state of a file from another; empty and None where nothing does."""

    tag: str
    modified: int | None
    """The second of Last-Modified."""

    @property
    def strong(self) -> bool:
        """Equal validators mean equal bytes (8.8.1)."""
        return self.tag.startswith('"')


def validators_of(mtime_ns: int, size: int, inode: int, now: float) -> Validators:
    """Take the validators of a file from its fstat."""
    if mtime_ns >= 0 and now - mtime_ns * 1e-9 >= SETTLED:
        return _settled(mtime_ns, size, inode)
    mtime = mtime_ns // 1_000_000_000
    weak = "" if now - mtime_ns * 1e-9 >= SETTLED else "W/"
    # Never later than Date (8.8.2.1); before 1970 there is no moment to compare with.
    modified = min(mtime, int(now)) if mtime >= 0 else None
    return Validators(weak + _tag(mtime_ns, size, inode), modified)


@lru_cache(maxsize=256)
def _settled(mtime_ns: int, size: int, inode: int) -> Validators:
    """Name the state of a file that is done with: the same for every peer."""
    return Validators(_tag(mtime_ns, size, inode), mtime_ns // 1_000_000_000)


def _tag(mtime_ns: int, size: int, inode: int) -> str:
    return f'"{mtime_ns:x}-{size:x}-{inode:x}"'


def judge(request: Request, there: Validators, now: float) -> int | None:
    """Return 304 or 412 where a condition says so, in the order of 13.2.2.

    To be called for GET and HEAD where the answer would be 200, and there only (13.2.1).
    """
    if CONDITIONS.isdisjoint(request.fields):
        return None
    wanted = request.values(b"if-match")
    if wanted:
        if not _matches(wanted, there.tag, strong=True):
            return 412
    elif there.modified is not None:
        limit = _date(request, b"if-unmodified-since", now)
        if limit is not None and there.modified > limit:
            return 412
    known = request.values(b"if-none-match")
    if known:
        return 304 if _matches(known, there.tag, strong=False) else None
    if there.modified is not None:
        since = _date(request, b"if-modified-since", now)
        if since is not None and there.modified <= since:
            return 304
    return None


def may_use_range(request: Request, there: Validators, now: float) -> bool:
    """Tell whether If-Range lets Range count: the bytes are still the same (13.1.5).

    A date has to be the very one of Last-Modified; an earlier or later one is no match.
    """
    values = request.values(b"if-range")
    if not values:
        return True
    if len(values) > 1 or not there.strong:
        return False
    value = values[0]
    if value.startswith((b'"', b"W/")):
        return value == there.tag.encode("latin-1")
    return there.modified is not None and parse_date(value, now) == there.modified


def parse_date(text: bytes, now: float) -> int | None:
    """Read a date in any of the three forms of 5.6.7, as seconds of Unix; None: no date.

    `now` is for years of two digits: one that seems more than 50 years ahead is past.
    """
    words = text.decode("latin-1")
    for form in _FORMS:
        if found := form.fullmatch(words):
            break
    else:
        return None
    day, year, hour, minute, second = (
        int(found[name]) for name in ("day", "year", "hour", "minute", "second")
    )
    month = MONTHS.index(found["month"]) + 1
    short = len(found["year"]) == 2  # noqa: PLR2004
    if short:
        year += int(1970 + now / _YEAR) // 100 * 100
    # 60: a leap second, which Unix counts as the next one.
    good = hour < 24 and minute < 60 and second <= 60  # noqa: PLR2004
    if not (good and 1 <= day <= _days_in(year, month)):
        return None
    moment = _days(year, month, day) * _DAY + hour * 3600 + minute * 60 + second
    if short and moment > now + 50 * _YEAR:
        moment -= (_days(year, month, 1) - _days(year - 100, month, 1)) * _DAY
    return moment


def _matches(values: list[bytes], tag: str, *, strong: bool) -> bool:
    """Compare a list of entity tags with ours (8.8.3.2); `*` matches whatever there is."""
    if values == [b"*"]:
        return True
    if not tag or (strong and not tag.startswith('"')):
        return False
    ours = tag.encode("latin-1")
    known = _tags(b",".join(values))
    if strong:
        return ours in known
    return ours.removeprefix(b"W/") in [one.removeprefix(b"W/") for one in known]


def _tags(text: bytes) -> list[bytes]:
    """Split a list of entity tags, in which a tag may have commas; empty if it is none."""
    tags = []
    at = 0
    text = text.rstrip(b" \t,")
    while at < len(text):
        found = _TAG.match(text, at)
        if found is None:
            return []
        tags.append(found[1])
        at = found.end()
    return tags


def _date(request: Request, name: bytes, now: float) -> int | None:
    values = request.values(name)
    return parse_date(values[0], now) if len(values) == 1 else None


def _days_in(year: int, month: int) -> int:
    following = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004
    return _days(*following, 1) - _days(year, month, 1)


def _days(year: int, month: int, day: int) -> int:
    """Count the days since 1970 in the calendar of Gregory.

    The year begins with March, so that a leap day is its last: the months before then
    have (153 * m + 2) // 5 days.
    """
    if month <= 2:  # noqa: PLR2004
        year, month = year - 1, month + 12
    leaps = year // 4 - year // 100 + year // 400
    return 365 * year + leaps + (153 * (month - 3) + 2) // 5 + day - 719469
