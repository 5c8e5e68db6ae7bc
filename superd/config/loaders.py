"""Choose the YAML parser: libyaml's where it is there, else the one in Python.

A file must not read differently where libyaml is missing. The one known difference that
bites, a question mark inside of a flow list, is mended here; the others are refused by
`document.py` with both.
"""

from __future__ import annotations

from typing import Any

import yaml

BREAKS = "\0 \t\r\n\x85\u2028\u2029"


class PythonLoader(yaml.SafeLoader):
    """PyYAML's parser in Python, with libyaml's idea of a plain word."""

    def scan_plain(self) -> yaml.ScalarToken:
        """Scan an unquoted word; PyYAML's own ends it at `?` in [http://x/?q=1]."""
        scanner: Any = self
        chunks: list[str] = []
        start = end = scanner.get_mark()
        indent = scanner.indent + 1
        spaces: list[str] = []
        while scanner.peek() != "#":
            length = 0
            while not self._ends_word(length):
                length += 1
            if length == 0:
                break
            scanner.allow_simple_key = False
            chunks += [*spaces, scanner.prefix(length)]
            scanner.forward(length)
            end = scanner.get_mark()
            spaces = scanner.scan_plain_spaces(indent, start)
            if not spaces or (not scanner.flow_level and scanner.column < indent):
                break
        return yaml.ScalarToken("".join(chunks), True, start, end)

    def _ends_word(self, at: int) -> bool:
        scanner: Any = self
        char = scanner.peek(at)
        flow = ",[]{}" if scanner.flow_level else ""
        if char == ":":
            return scanner.peek(at + 1) in BREAKS + flow
        return char in BREAKS or bool(flow and char in flow)


PYTHON_LOADER: Any = PythonLoader
LOADER: Any = getattr(yaml, "CSafeLoader", PythonLoader)
"""libyaml's parser is seven times as fast."""
