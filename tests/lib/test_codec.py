"""Values come back as they were sent, and others are refused with the place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cri_proxy.lib import codec
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath


@dataclass(frozen=True, slots=True)
class Sample:
    """One of each that messages are made of."""

    place: Path
    path: StorePath
    reference: Reference
    mode: Mode
    names: tuple[str, ...] = ()
    password: str | None = field(default=None, repr=False)
    by_name: dict[str, list[int]] = field(default_factory=dict)


SAMPLE = Sample(
    Path("/run/x y"),
    StorePath("0" * 32, "one"),
    Reference("acme", "web", 3),
    Mode.DEV,
    ("ä", "\0"),
    "s3cret",
    {"a": [1, 2]},
)


def test_value_comes_back_as_it_was_sent() -> None:
    back = codec.decode(codec.encode(SAMPLE), Sample)

    assert back == SAMPLE
    assert isinstance(back.place, Path)
    assert back.mode is Mode.DEV


def test_what_has_a_default_may_be_left_out() -> None:
    sent = {"place": "/", "path": SAMPLE.path, "reference": SAMPLE.reference, "mode": "run"}

    assert codec.decode(codec.encode(sent), Sample).names == ()


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"names": ["a", 1]}, r"Expected `str`, got `int` - at `\$\.names\[1\]`"),
        ({"mode": "fly"}, r"Invalid enum value .* at `\$\.mode`"),
        ({"place": 7}, r"at `\$\.place`"),
        ({"path": {"digest": "x"}}, r"missing required field `name` - at `\$\.path`"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place(
    changes: dict[str, object], place: str
) -> None:
    sent = {"place": "/", "path": SAMPLE.path, "reference": SAMPLE.reference, "mode": "run"}

    with pytest.raises(ValueError, match=place):
        codec.decode(codec.encode(sent | changes), Sample)


@pytest.mark.parametrize("value", [object(), "\ud800", {"x": [object()]}])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode(value)
