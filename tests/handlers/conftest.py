"""How hypothesis works here: no clock of its own, no folder in the checkout.

Two busy cores make any example late now and then, and the checkout may not be writable
for whoever runs the tests.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("handlers", deadline=None, database=None, print_blob=True)
settings.load_profile("handlers")
