"""What a pod's annotation may say."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.model import references
from cri_proxy.model.references import Reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/name", Reference("owner", "name")),
        ("owner/name:7", Reference("owner", "name", 7)),
        ("owner/name:999999999", Reference("owner", "name", 999_999_999)),
        ("Some_Org/my.env-2", Reference("Some_Org", "my.env-2")),
        ("0/_", Reference("0", "_")),
        (f"{'o' * 100}/{'n' * 100}", Reference("o" * 100, "n" * 100)),
    ],
)
def test_reference_is_read_and_written_back(text, reference):
    assert references.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "a//b",
        "../x",
        "x/..",
        "./x",
        "a/.hidden",
        "a/b..c",
        "a/b.lock",
        "a/b.git",
        "a/b.",
        "-a/b",
        "a/-b",
        "a/b@2",
        "a/b:latest",
        "a/b:0",
        "a/b:",
        "a/b:-1",
        "a/b:+1",
        "a/b:01",
        "a/b:1.0",
        "a/b: 1",
        "a/b:1 ",
        "a/b:1\n",
        "a/b:1:2",
        "a/b:1000000000",
        "a/b:\u0661",
        "a/b\n",
        "a/b\0",
        " a/b",
        "a b/c",
        "a/b?x=y",
        "a/b#c",
        "a/b%2e",
        "a\\b",
        "a/b~1",
        "a/b^",
        "https://hub.flox.dev/a/b",
        "ä/b",
        "a/\uff42",
        "a/\u202eb",
        "a/b\u200b",
        f"{'o' * 101}/n",
        f"o/{'n' * 101}",
        "x" * 262_144,
        "a/" + "b" * 262_142,
        "a/b:" + "1" * 262_140,
    ],
    ids=lambda text: ascii(text[:24]),
)
def test_other_text_is_refused_with_what_to_write(text):
    with pytest.raises(errors.RequestInvalid) as caught:
        references.parse(text)

    message = str(caught.value)
    assert "write owner/name for the live generation, or owner/name:7" in message
    assert message.isprintable()
    assert len(message) < 600


def test_latest_is_answered_with_the_way_to_say_it():
    with pytest.raises(errors.RequestInvalid, match=r"for the live generation write a/b$"):
        references.parse("a/b:latest")


def test_pinning_keeps_owner_and_name():
    live = references.parse("owner/name")

    assert not live.is_pinned
    assert live.at(3) == references.parse("owner/name:3")
    assert live.at(3).is_pinned


def test_generations_of_an_environment_are_in_order():
    assert references.parse("a/b:2") < references.parse("a/b:10")


names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=100)


@settings(max_examples=100, deadline=None)
@given(names, names, st.none() | st.integers(1, 999_999_999))
def test_what_is_written_is_read_back(owner, name, generation):
    reference = Reference(owner, name, generation)

    assert references.parse(str(reference)) == reference


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text("ab./:-_ 019@", max_size=20))
def test_arbitrary_text_is_refused_or_the_reference_that_it_writes(text):
    try:
        reference = references.parse(text)
    except errors.RequestInvalid:
        return

    assert str(reference) == text
    assert ".." not in text
    assert not text.startswith(("-", "."))
