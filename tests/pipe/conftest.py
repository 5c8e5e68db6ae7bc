"""How hypothesis works here: as for the handlers, no clock of its own and no folder."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("pipe", deadline=None, database=None, print_blob=True)
settings.load_profile("pipe")
