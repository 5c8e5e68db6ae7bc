"""Look whether the files and folders are there that a configuration names.

Only what the system says for sure is told: where a folder may not be searched, nothing is.
"""

from __future__ import annotations

import os
import stat


def log_trouble(path: str) -> str:
    """Why the master could not write its log to this file, or nothing."""
    if path == os.devnull:
        return ""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if path.endswith("/"):
            return f"{path} is no file; name one in a folder that is there"
        return folder_trouble(path)
    except NotADirectoryError:
        return folder_trouble(path)
    except PermissionError:
        return ""
    except (OSError, ValueError):
        return "no file can have this name; name a regular one"
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISLNK(mode):
        return f"{path} is a symbolic link, and none is followed; name the file itself"
    if stat.S_ISDIR(mode):
        return f"{path} is a folder; name a file in it"
    kind = "a FIFO" if stat.S_ISFIFO(mode) else "a device or a socket"
    return f"{path} is {kind}; a log is a regular file or /dev/null"


def folder_trouble(path: str) -> str:
    """What is wrong with the folder that this file is to be created in, or nothing."""
    folder = os.path.dirname(path)
    try:
        mode = os.stat(folder).st_mode
    except FileNotFoundError:
        return f"the folder {folder} is not there; create it or choose another"
    except NotADirectoryError:
        return f"what is above {path} is no folder; choose another"
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISDIR(mode) else f"{folder} is no folder; choose another"


def is_absent(path: str) -> bool:
    """Whether there is certainly nothing of this name."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
