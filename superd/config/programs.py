"""Settle which file an `exec` names. There is no PATH: what runs is what is written."""

from __future__ import annotations

import os
import re

from superd.config.problems import LONGEST_SHOWN, ConfigError, printable, show

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SHELL = re.compile(r"[|;<>&`]|\$\(")
VARIABLE = re.compile(r"\$([A-Za-z_]|\{)")


def program_path(word: str, folder: str) -> str:
    """The absolute path of a program; raises ConfigError for a bare name."""
    if not word:
        raise ConfigError("the name of the program is empty; for example /usr/bin/cat")
    if word.startswith("~"):
        raise ConfigError(f"no shell expands {show(word)}; write the whole path")
    if (text := _meant_for_a_shell(word, folder)) and not os.path.lexists(
        absolute(word, folder)
    ):
        raise ConfigError(text)
    if "/" in word:
        return absolute(word, folder)
    if found := _usual(word):
        raise ConfigError(
            f"{show(word)} has no folder, and no PATH is searched; "
            f"did you mean {found}?"
        )
    raise ConfigError(
        f"{show(word)} has no folder, and no PATH is searched; "
        f"write its whole path, or ./{word} for one beside this file"
    )


def _meant_for_a_shell(word: str, folder: str) -> str:
    """What to write where the name of a program is more than a name, or nothing."""
    if SHELL.search(word):
        plain = len(word) <= LONGEST_SHOWN and not re.search(r'["\\]', word)
        script = printable(word) if plain else "..."
        return f'there is no shell here: write [/bin/sh, -c, "{script}"]'
    if VARIABLE.search(word):
        return "no variable is expanded, write the whole path"
    name, *arguments = word.split() or [""]
    if not arguments:
        return ""
    found = name if "/" in name else _usual(name)
    if not found or not _is_program(absolute(found, folder)):
        return ""
    words = printable(", ".join([found, *arguments]))
    return f"arguments are items of their own; write [{words}]"


def _usual(name: str) -> str:
    """The program of this name that a shell would find, or nothing."""
    paths = (f"{place}/{name}" for place in USUAL_PATH.split(":"))
    return next(filter(_is_program, paths), "")


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


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
