"""Play the corpus: NAME.in is what the peer sends, NAME.out the whole answer.

NAME.code is the exit code where it is not 0. The cut into packets must change nothing,
so each dialogue is played whole, by line, by byte and with random cuts, on a socket that
keeps the cuts. Dates are written as NOW, strong entity tags as TAG.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from httpd_root import make_root
from inetd import cuts, fork
from looped import in_loop

from superd.handlers import echo, finger, httpd

CORPUS = Path(__file__).with_name("corpus")
MODULES = {"echo": echo, "finger": finger, "httpd": httpd}
DIALOGUES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*.in"))


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = make_root(tmp_path_factory.mktemp("httpd"))
    return {"echo": [], "finger": ["--builtin"], "httpd": ["--root", str(root)]}


def expected(dialogue):
    path = CORPUS / dialogue
    code = path.with_suffix(".code")
    number = int(code.read_text()) if code.exists() else 0
    return path.with_suffix(".out").read_bytes(), number


def play(dialogue, how, flags, mode):
    handler = dialogue.parent.name
    data = (CORPUS / dialogue).read_bytes()
    pieces = cuts(data, how, random.Random(str(dialogue)))
    module = MODULES[handler]
    main = module.main if mode == "process" else in_loop(module)
    with fork(main, *flags[handler], kind="records") as served:
        answer = served.talk(*pieces)
        code = served.wait()
        assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
        answer = re.sub(rb"Date: [^\r]*GMT", b"Date: NOW", answer)
        return re.sub(rb'ETag: "[0-9a-f-]+"', b"ETag: TAG", answer), code


@pytest.mark.parametrize("mode", ["process", "loop"])
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=str)
def test_the_answer_is_the_same_however_the_question_is_cut(dialogue, flags, mode):
    for how in ("whole", "line", "byte", "random"):
        if how == "byte" and (CORPUS / dialogue).stat().st_size > 10_000:
            continue
        if how in ("line", "byte") and mode == "loop":
            continue  # one conversation serves both; what a loop adds is in test_loop.py
        assert play(dialogue, how, flags, mode) == expected(dialogue), how


def test_every_file_of_the_corpus_belongs_to_a_dialogue():
    names = {path.with_suffix("") for path in CORPUS.glob("*/*.in")}
    for path in CORPUS.glob("*/*.*"):
        assert path.with_suffix("") in names
