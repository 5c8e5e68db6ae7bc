"""Run the command as `python -m superd.pipe`."""

import sys

from superd.pipe.command import main

if __name__ == "__main__":
    sys.exit(main())
