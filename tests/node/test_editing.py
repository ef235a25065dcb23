"""Edits of one place in another program's file."""

from __future__ import annotations

import json

import pytest

from cri_proxy.node import editing


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a --end=unix:///old.sock b", "a --end=NEW b"),
        ("a --end unix:///old.sock", "a --end NEW"),
        ('ARGS="--end=unix:///old.sock"', 'ARGS="--end=NEW"'),
        ("--end='unix:///old.sock' --v=2", "--end='NEW' --v=2"),
        ("--end=a --end=b", "--end=NEW --end=NEW"),
    ],
)
def test_a_flag_is_changed_where_it_stands(before: str, after: str) -> None:
    assert editing.with_flag(before, "end", "NEW") == after


def test_a_longer_flag_is_another() -> None:
    assert editing.with_flag("--end-later=1 --no--end=2", "end", "NEW") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("--end=a", "a"),
        ("--end=a --end b", "b"),
        ("--ending=a", None),
        ("", None),
    ],
)
def test_the_last_flag_wins(text: str, value: str | None) -> None:
    assert editing.flag_of(text.split(), "end") == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1\nkey: old\nb: 2\n", "a: 1\nkey: NEW\nb: 2\n"),
        ('key: "old" # why\n', "key: NEW # why\n"),
        ('key: ""\n', "key: NEW\n"),
        ("key:\nb: 2\n", "key: NEW\nb: 2\n"),
        ("a:\n  key: inner\n", "a:\n  key: inner\nkey: NEW\n"),
        ("a: 1", "a: 1\nkey: NEW\n"),
        ("", "key: NEW\n"),
    ],
)
def test_a_key_of_yaml_is_set(before: str, after: str) -> None:
    assert editing.with_yaml_value(before, "key", "NEW") == after
    assert editing.yaml_value(after, "key") == "NEW"


@pytest.mark.parametrize(
    "before",
    [
        '{"key": "old", "b": {"c": [1, 2]}}',
        '{\n  "b": 1,\n  "key" : "old"\n}\n',
        '{\n    "b": {"key": "inner"}\n}',
        '{"b": {"key": "inner"}, "key": "old"}',
        "{}",
    ],
)
def test_a_key_of_json_is_set_and_nothing_else(before: str) -> None:
    after = editing.with_json_value(before, "key", "NEW")

    assert json.loads(after) == {**json.loads(before), "key": "NEW"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('V="--v=2"\n', 'V="--v=2 NEW"\n'),
        ("V=\n", 'V="NEW"\n'),
        ("# none\n", '# none\nV="NEW"\n'),
        ("V='a'\nV=b\n", "V='a'\nV=\"b NEW\"\n"),
    ],
)
def test_words_are_added_to_a_variable(before: str, after: str) -> None:
    assert editing.with_words(before, "V", "NEW") == after
