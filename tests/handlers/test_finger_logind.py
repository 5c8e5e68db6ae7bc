"""Who is logged in where no utmp is kept: libsystemd, or nobody.

A library stays loaded, and its calls are somebody else's C: each test has a process of its
own. The real library with a real logind is asked in tests/system/test_systemd_boot.py.
"""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALICE = [0, "user", "active", "pts/0"]  # a uid that every machine has
NOBODY = 65534

LIBRARY = """
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static const struct { const char *name, *texts[3]; long uid; } SESSIONS[] = {%s};
#define COUNT ((int)(sizeof SESSIONS / sizeof *SESSIONS))

int sd_get_sessions(char ***sessions) {
    *sessions = calloc(COUNT + 1, sizeof **sessions);
    for (int i = 0; i < COUNT; i++) (*sessions)[i] = strdup(SESSIONS[i].name);
    return COUNT;
}

static int find(const char *session) {
    for (int i = 0; i < COUNT; i++)
        if (!strcmp(session, SESSIONS[i].name)) return i;
    return -ENXIO;
}

static int get(const char *session, int column, char **value) {
    int i = find(session);
    if (i < 0) return i;
    if (!SESSIONS[i].texts[column]) return -ENODATA;
    *value = strdup(SESSIONS[i].texts[column]);
    return 0;
}

int sd_session_get_class(const char *s, char **value) { return get(s, 0, value); }
int sd_session_get_state(const char *s, char **value) { return get(s, 1, value); }
int sd_session_get_tty(const char *s, char **value) { return get(s, 2, value); }
int sd_session_get_uid(const char *s, uid_t *uid) {
    int i = find(s);
    if (i < 0) return i;
    if (SESSIONS[i].uid < 0) return -ENXIO;  /* it has ended meanwhile */
    *uid = SESSIONS[i].uid;
    return 0;
}
"""
AWAY = """
#include <errno.h>
int sd_get_sessions(char ***sessions) { return (void)sessions, -ENOENT; }
#define NOT(what) int sd_session_get_##what(void) { return -ENXIO; }
NOT(uid) NOT(class) NOT(state) NOT(tty)
"""

ASK = """
import json, sys
from superd.handlers.finger_logind import logins
print(json.dumps(logins(*sys.argv[1:])))
"""
# As the handler comes to it: no utmp at the path, the library by its own name.
ASK_WITHOUT_UTMP = """
import json, sys
from superd.handlers.finger_logins import logins
print(json.dumps(logins(sys.argv[1])))
"""


def ask(code, *words, prefix=()):
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        cwd=ROOT,
        timeout=30,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return json.loads(done.stdout)


@pytest.fixture
def library(tmp_path):
    """Compile a libsystemd with these calls."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: apt install gcc libc6-dev")

    def build(code):
        source, made = tmp_path / "fake.c", tmp_path / "libfake.so"
        source.write_text(code)
        command = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", made, source]
        subprocess.run(command, check=True)
        return made

    return build


@pytest.fixture
def sessions(library):
    """Compile one that knows these sessions: uid, class, state, terminal."""

    def build(*rows):
        lines = []
        for number, row in enumerate(rows):
            uid, *texts = row
            words = ["NULL" if text is None else f'"{text}"' for text in texts]
            lines.append(f'{{"c{number}", {{{", ".join(words)}}}, {uid}}}')
        return library(LIBRARY % ", ".join(lines))

    return build


def test_the_sessions_of_people_are_the_logins(sessions):
    made = sessions(
        ALICE,
        [NOBODY, "user", "online", "tty2"],
        [0, "user-early", "active", "tty1"],
        [0, "user", "active", None],
    )
    nobody = pwd.getpwuid(NOBODY).pw_name
    expected = [["root", "pts/0"], [nobody, "tty2"], ["root", "tty1"], ["root", "?"]]
    assert ask(ASK, made) == expected


@pytest.mark.parametrize(
    "row",
    [
        [NOBODY, "greeter", "active", "tty1"],
        [NOBODY, "background", "active", None],
        [NOBODY, "manager", "active", None],
        [NOBODY, "lock-screen", "active", "tty1"],
        [NOBODY, "user", "opening", "pts/1"],
        [NOBODY, "user", "closing", "pts/1"],
        [NOBODY, "user", None, "pts/1"],
        [NOBODY, None, "active", "pts/1"],
        [-1, "user", "active", "pts/1"],
        [4294967294, "user", "active", "pts/1"],  # nobody has this uid
    ],
)
def test_no_other_session_is_a_login(sessions, row):
    assert ask(ASK, sessions(row, ALICE)) == [["root", "pts/0"]]


def test_a_great_many_sessions_are_read_as_far_as_utmp_would_be(sessions):
    assert len(ask(ASK, sessions(*[ALICE] * 4000))) == 2730


def test_a_terminal_that_is_no_ascii_is_no_error(sessions):
    made = sessions([0, "user", "active", "\\303\\251"])
    assert ask(ASK, made) == [["root", "\ufffd\ufffd"]]


def test_a_library_that_knows_no_logind_has_no_logins(library):
    assert ask(ASK, library(AWAY)) == []


@pytest.mark.parametrize("name", ["libnosuchlibrary.so.0", "libc.so.6"])
def test_no_library_or_a_wrong_one_has_no_logins(name):
    assert ask(ASK, name) == []


def test_a_python_without_ctypes_has_no_logins(tmp_path):
    """With None there, an import says what it says where the module is missing."""
    code = "import sys; sys.modules['ctypes'] = None\n" + ASK_WITHOUT_UTMP
    assert ask(code, tmp_path / "utmp") == []


@pytest.mark.root
def test_a_machine_with_neither_utmp_nor_logind_has_no_logins():
    """Whatever libsystemd is here: in an empty /run it finds no logind."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: apt install util-linux")
    script = 'mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no mount namespace may be made here: {done.stderr.strip()}")
    assert ask(ASK_WITHOUT_UTMP, "/run/utmp", prefix=prefix) == []
