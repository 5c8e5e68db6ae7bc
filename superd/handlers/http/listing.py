"""Write the page that shows a directory.

The rule of the file: a name is a stranger's text. In a link it is percent-encoded to the
last byte, in text it is escaped and what does not print is replaced; and the page needs
no script, so that its policy can forbid every one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http import style
from superd.handlers.http.response import escape
from superd.handlers.http.target import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from superd.handlers.http.folder import Entry

_LAST: Final = 253402300799
"""9999-12-31T23:59:59Z: the last moment with four digits for its year."""
_KILO: Final = 1000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_COLUMNS: Final = {"name": "Name", "size": "Size", "date": "Modified (UTC)"}

_BODY: Final = """\
<h1>{title}</h1>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>{total}</p>"""


class Order(NamedTuple):
    """How the lines are sorted; directories always come first."""

    column: str = "name"
    falling: bool = False


def parse_order(query: bytes) -> Order:
    """Read `sort=name|size|date` and `order=asc|desc`; what is neither is ignored."""
    given = dict(part.partition(b"=")[::2] for part in query.split(b"&"))
    column = given.get(b"sort", b"").decode("latin-1")
    return Order(
        column if column in _COLUMNS else "name", given.get(b"order") == b"desc"
    )


def page_of(
    names: Sequence[bytes], entries: Iterable[Entry], order: Order, *, more: bool
) -> bytes:
    """Write the page of the directory of this path; `more` says that it is not all."""
    lines = sorted(entries, key=lambda entry: entry.name)
    if order.column == "size":
        lines.sort(key=lambda entry: entry.size, reverse=order.falling)
    elif order.column == "date":
        lines.sort(key=lambda entry: entry.mtime, reverse=order.falling)
    elif order.falling:
        lines.reverse()
    lines.sort(key=lambda entry: not entry.folder)
    # The order goes along into the directories.
    query = "" if order == Order() else _query(order)
    rows = [_row(entry, query) for entry in lines]
    if names:
        rows.insert(
            0, f'<tr><td><a href="../{query}">../</a></td><td></td><td></td></tr>'
        )
    count = f"{len(lines)} {'entry' if len(lines) == 1 else 'entries'}"
    title = escape("/" + "".join(printable(name) + "/" for name in names))
    body = _BODY.format(
        title=title,
        heads="".join(_head(column, order) for column in _COLUMNS),
        rows="\n".join(rows),
        total=f"The first {count}; there are more." if more else count,
    )
    page = style.PAGE.format(title=f"Index of {title}", style=style.TABLE, body=body)
    return page.encode()


def printable(name: bytes) -> str:
    """Decode a name for the eye: what is no text and what steers it is replaced."""
    text = name.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def size_of(size: int) -> str:
    """Write a size with at most four digits."""
    value, unit = float(size), 0
    # 999.95 would be written as 1000.0.
    while value >= _KILO - 0.05 and unit < len(_UNITS) - 1:
        value, unit = value / _KILO, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{size} B"


def _query(order: Order) -> str:
    return f"?sort={order.column}&amp;order={'desc' if order.falling else 'asc'}"


def _head(column: str, order: Order) -> str:
    """Write the head of a column: a link that sorts by it, or turns it around."""
    chosen = column == order.column
    turned = Order(column, chosen and not order.falling)
    state = f' aria-sort="{"descending" if order.falling else "ascending"}"'
    arrow = " \u2193" if order.falling else " \u2191"
    return (
        f'<th scope="col"{state if chosen else ""}><a href="{_query(turned)}">'
        f"{_COLUMNS[column]}</a>{arrow if chosen else ''}</th>"
    )


def _row(entry: Entry, query: str) -> str:
    slash = "/" if entry.folder else ""
    where = encode(entry.name).decode("ascii") + slash
    if entry.folder:
        where, size = where + query, ""
    else:
        size = size_of(entry.size)
    t = time.gmtime(min(max(entry.mtime, 0), _LAST))
    date = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02} {t.tm_hour:02}:{t.tm_min:02}"
    return (
        f'<tr><td><a href="{where}">{escape(printable(entry.name))}{slash}</a></td>'
        f"<td>{size}</td><td>{date}</td></tr>"
    )
