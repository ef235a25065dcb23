"""JSON with places."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import fields


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key c occurs twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"1" * 10_000, "not valid JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused_with_its_reason(text: bytes, reason: str) -> None:
    with pytest.raises(errors.ContentDamaged, match="the document is not valid JSON") as refusal:
        fields.parse(text, "the document")

    assert reason in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_a_wrong_type_is_refused_with_its_place() -> None:
    root = fields.parse(b'{"a": [{"b": {"c": 7}}]}', "the document")
    (element,) = root.require("a").items()

    with pytest.raises(
        errors.ContentDamaged, match=r"a\[0\]\.b\.c must be a text, not a whole number"
    ):
        element.require("b").require("c").text()


def test_what_is_missing_is_refused_with_its_place() -> None:
    root = fields.parse(b'{"a": {"b": null}}', "the document")

    with pytest.raises(errors.ContentDamaged, match=r"the document lacks a\.b"):
        root.require("a").require("b")


@pytest.mark.parametrize("text", ["\0", "\ud800", "a\udfffb"])
def test_a_text_that_no_program_can_be_given_is_refused(text: str) -> None:
    root = fields.parse(json.dumps({"a": text, text: 1}).encode(), "the document")

    with pytest.raises(errors.ContentDamaged, match="NUL or half a surrogate pair"):
        root.require("a").text()
    with pytest.raises(errors.ContentDamaged, match="NUL or half a surrogate pair"):
        list(root.members())


def test_true_is_no_number_and_a_number_is_not_true() -> None:
    root = fields.parse(b'{"yes": true, "one": 1}', "the document")

    with pytest.raises(errors.ContentDamaged, match="yes must be a whole number, not true or f"):
        root.require("yes").integer()
    with pytest.raises(errors.ContentDamaged, match="one must be true or false, not a whole"):
        root.require("one").boolean()


@given(st.binary())
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(errors.ContentDamaged):
        fields.parse(data, "the document")


@given(st.text())
def test_what_is_shown_is_one_short_printable_line(text: str) -> None:
    shown = fields.shown(text)

    assert shown.isprintable()
    assert shown.isascii()
    assert len(shown) <= fields.SHOWN_LETTERS
