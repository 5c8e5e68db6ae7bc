"""Settle which file an `exec` names. There is no PATH: what runs is what is written."""

from __future__ import annotations

import os

from superd.config.problems import ConfigError, show

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program_path(word: str, folder: str) -> str:
    """The absolute path of a program; raises ConfigError for a bare name."""
    if not word:
        raise ConfigError("the name of the program is empty; for example /usr/bin/cat")
    if word.startswith("~"):
        raise ConfigError(f"no shell expands {show(word)}; write the whole path")
    if "/" in word:
        return absolute(word, folder)
    for place in USUAL_PATH.split(":"):
        found = f"{place}/{word}"
        if os.path.isfile(found) and os.access(found, os.X_OK):
            raise ConfigError(
                f"{show(word)} has no folder, and no PATH is searched; "
                f"did you mean {found}?"
            )
    raise ConfigError(
        f"{show(word)} has no folder, and no PATH is searched; "
        f"write its whole path, or ./{word} for one beside this file"
    )


def absolute(path: str, folder: str) -> str:
    """A path made absolute; tidied only where that leaves it the same file."""
    whole = os.path.join(folder, path)
    tidy = os.path.normpath(whole)
    if ".." not in whole.split("/"):
        return tidy
    # "a/link/.." is not "a" when link is a symbolic link.
    try:
        same = os.path.samefile(os.path.dirname(tidy), os.path.dirname(whole))
    except (OSError, ValueError):
        return whole
    return tidy if same else whole
