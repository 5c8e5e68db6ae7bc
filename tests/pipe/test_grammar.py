"""The text of a pipeline: the words of a shell, and nothing else of it."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.pipeline.failure import Failure
from superd.pipe.grammar import parse

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
argvs = st.lists(words, max_size=3).flatmap(
    lambda rest: words.filter(lambda w: w).map(lambda first: [first, *rest])
)
hosts = st.sampled_from([None, "hostB", "10.99.0.2", "hostC:7041", "[::1]:9", "[::1]"])


def host_of(text):
    host = parse(f"@{text} x", 7040)[0].host
    return host.host, host.port


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("hostB", ("hostB", 7040)),
        ("hostB:9", ("hostB", 9)),
        ("192.0.2.1", ("192.0.2.1", 7040)),
        ("[2001:db8::1]:9", ("2001:db8::1", 9)),
        ("[2001:db8::1]", ("2001:db8::1", 7040)),
    ],
)
def test_a_host_may_have_a_port(text, host):
    assert host_of(text) == host


def test_the_pipeline_of_the_issue():
    text = """cat data.txt | @hostB grep -v "^#" | @hostC:9 sort -rn"""
    assert [(stage.argv, stage.host) for stage in parse(text, 7040)] == [
        (["cat", "data.txt"], None),
        (["grep", "-v", "^#"], ("hostB", 7040)),
        (["sort", "-rn"], ("hostC", 9)),
    ]


@given(st.lists(st.tuples(hosts, argvs), min_size=1, max_size=4))
def test_what_is_quoted_for_a_shell_comes_out_as_it_was(stages):
    text = " | ".join(
        (f"@{host} " if host else "") + " ".join(map(_quoted, argv))
        for host, argv in stages
    )
    parsed = parse(text, 7040)
    assert [one.argv for one in parsed] == [argv for _, argv in stages]
    assert [one.host is None for one in parsed] == [host is None for host, _ in stages]


def _quoted(word):
    # An @ begins a host, which is no rule of shlex; in quotes it does not.
    return f"''{shlex.quote(word)}" if word.startswith("@") else shlex.quote(word)


@given(st.text(st.sampled_from("ab @|'\"\\ \t\n-:")))
def test_any_text_is_split_as_shlex_splits_it_or_refused(text):
    parsed = attempt(text)
    if parsed is None:
        return
    if "@" not in text and not _bars_in_quotes(text):
        wanted = [shlex.split(part) for part in text.split("|")]
        assert [one.argv for one in parsed] == wanted


def attempt(text):
    """Parse, or fail in the one way there is."""
    try:
        return parse(text, 7040)
    except Failure:
        return None


def _bars_in_quotes(text):
    return "|" in text and any(mark in text for mark in "'\"\\")


@given(st.text())
def test_any_text_is_a_pipeline_or_one_failure(text):
    assert all(stage.argv and stage.argv[0] for stage in attempt(text) or ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "stage 1: no program"),
        ("cat |", "stage 2: no program"),
        ("cat || sort", "stage 2: no program"),
        ("cat | @hostB", "stage 2: no program"),
        ("cat | @ sort", "stage 2: @ is no host"),
        ("@h:99999 sort", "@h:99999 is no host"),
        ("cat 'x", "character 5: a ' that is not closed"),
        ("cat x\\", "a backslash at the end"),
        ("'' x", "an empty word is no program"),
        ("cat > out", "character 5: > is of a shell"),
        ("cat; rm x", "character 4: ; is of a shell"),
        ("cat $HOME", "character 5: $ is of a shell"),
        ("cat `id`", "character 5: ` is of a shell"),
        ("cat a&", "character 6: & is of a shell"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, said):
    with pytest.raises(Failure, match=re.escape(said)) as raised:
        parse(text, 7040)
    assert raised.value.status == 64


@pytest.mark.parametrize("text", ["grep ';'", 'grep "$x"', "grep \\>", "'@x' y"])
def test_in_quotes_everything_is_a_word(text):
    [stage] = parse(text, 7040)
    assert stage.host is None
    assert stage.argv == shlex.split(text)
