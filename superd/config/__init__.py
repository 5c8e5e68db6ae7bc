"""Turn configuration text into one validated plan.

Runs in the compile child and in commands, never in the master.
"""

import os

# Pydantic would import every installed plugin of its own, as root: code that nobody
# named in the configuration, and a scan of all packages that costs 40 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
