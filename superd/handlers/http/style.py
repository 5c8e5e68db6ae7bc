"""Dress the pages that httpd makes itself: light or dark, on a desk or a phone.

The rule of the file: a page has one style and no script, and its policy names that style
by its hash (CSP 3, 6.7.3.3), so that nothing a name or a text smuggles in is applied.
"""

from __future__ import annotations

from typing import Final

PLAIN: Final = """\
:root { --text: #1c2024; --faint: #60646c; --back: #fff; --line: #e4e6ea;
  --hover: #f3f5f8; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --faint: #a0a6ae;
  --back: #15181c; --line: #2b3037; --hover: #1f242a; --link: #7ab7ff; } }
body { margin: 0 auto; padding: 1.25rem 1rem; max-width: 60rem; color: var(--text);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; }
h1, p { margin: .75rem .6rem; overflow-wrap: anywhere; }
p { color: var(--faint); }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
"""

TABLE: Final = (
    PLAIN
    + """\
table { width: 100%; border-collapse: collapse; }
th, td { padding: .4rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
th { white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; }
th:first-child, td:first-child { width: 100%; }
th:nth-child(2), td:nth-child(2) { text-align: right; }
td:nth-child(n+2) { color: var(--faint); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
tbody tr:hover { background: var(--hover); }
td a { white-space: pre-wrap; }
@media (max-width: 36rem) {
  tr { display: grid; grid-template-columns: 1fr auto;
    border-bottom: 1px solid var(--line); }
  th, td { border-bottom: 0; }
  thead tr { display: flex; }
  th:first-child, td:first-child { width: auto; }
  th:first-child { flex: 1; }
  td:first-child { grid-column: 1 / -1; padding-bottom: 0; }
  td:nth-child(n+2) { font-size: .875rem; text-align: left; padding-top: 0; }
  td:nth-child(3) { text-align: right; }
  td:empty { display: none; }
  td:first-child:has(+ td:empty) { padding-bottom: .4rem; }
  td:nth-child(2):empty + td { grid-column: 1 / -1; text-align: left; }
}
"""
)

_POLICY: Final = "default-src 'none'; style-src 'sha256-%s'"
PLAIN_POLICY: Final = _POLICY % "h2ZDMltayDHvm4D0QbLV5O/A1PCop6VxXWo4HwpTGDE="
TABLE_POLICY: Final = _POLICY % "hxAalSqP3p0rLb9UGMLQhv9y6J8BTVgs15JWtk6hXNs="
"""Of each style as it stands between its tags. hashlib takes 5 ms of every start, so a
test makes these."""

PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
