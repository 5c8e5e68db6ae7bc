"""Refuse a request: the status, what is said, and whether the peer broke the protocol."""

from __future__ import annotations

from typing import Final

MALFORMED: Final = frozenset({400, 414, 431})
"""Statuses that no honest peer earns: they count against the peer."""


class Refused(Exception):  # noqa: N818  a plain answer, not an error of ours
    """The request gets this status; nothing of it reaches the files."""

    def __init__(
        self,
        status: int,
        problem: str,
        fields: tuple[tuple[str, str], ...] = (),
        detail: str = "",
    ) -> None:
        """Take the status and its reason; `detail` is for the log alone."""
        super().__init__(problem)
        self.status = status
        self.fields = fields
        self.detail = detail
