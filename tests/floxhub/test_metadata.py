"""metadata.json, both versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import metadata
from cri_proxy.floxhub.metadata import Metadata
from cri_proxy.model.references import Reference

WEB = Reference("alice", "web")


def version_1(live: object, *generations: str) -> dict[str, Any]:
    known = {each: {"created": "2024-05-01T12:00:00Z", "lastActive": None} for each in generations}
    return {"version": 1, "currentGen": live, "generations": known}


def version_2(total: object, *lives: object) -> dict[str, Any]:
    history = [
        {"kind": "edit", "author": "alice", "timestamp": 1, "current_generation": each}
        for each in lives
    ]
    return {"version": 2, "history": history, "total_generations": total}


def parse(document: object) -> Metadata:
    return metadata.parse(json.dumps(document).encode(), WEB)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (version_1("2", "1", "2", "10"), Metadata(2, (1, 2, 10))),
        (version_1("1", "1"), Metadata(1, (1,))),
        (version_2(3, "1", "2", "3"), Metadata(3, (1, 2, 3))),
        (version_2(3, "1", "2", "3", "1"), Metadata(1, (1, 2, 3))),
        ({**version_2(1, "1"), "unheard_of": {"a": [1]}}, Metadata(1, (1,))),
    ],
    ids=["v1", "v1 of one", "v2", "v2 switched back", "v2 with unknown keys"],
)
def test_the_live_generation_and_all_known_ones_are_found(
    document: dict[str, Any], expected: Metadata
) -> None:
    assert parse(document) == expected


@pytest.mark.parametrize("document", [version_1(None), version_2(0)])
def test_an_environment_without_a_generation_is_not_found(document: dict[str, Any]) -> None:
    with pytest.raises(errors.NotFound, match="alice/web has no generation on FloxHub yet"):
        parse(document)


def test_a_later_version_asks_for_a_newer_program() -> None:
    with pytest.raises(errors.EnvironmentUnsuitable, match=r"format 3.*install a newer cri-proxy"):
        parse({"version": 3})


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"version": "2"},
        {"version": 0},
        {"version": True},
        version_1("3", "1", "2"),
        version_1("1", "1", "one"),
        version_1("0", "0"),
        version_1(1, "1"),
        {"version": 1, "currentGen": "1"},
        version_2(2, "3"),
        version_2(2, "01"),
        version_2(2, "-1"),
        version_2(2, "²"),
        version_2(2, ""),
        version_2(2, 1),
        version_2("2", "1"),
        version_2(-1, "1"),
        version_2(10**12, "1"),
        {"version": 2, "total_generations": 1},
        {"version": 2, "history": {"1": {}}, "total_generations": 1},
    ],
)
def test_metadata_that_contradicts_its_format_is_damaged(document: object) -> None:
    with pytest.raises(errors.ContentDamaged, match="alice/web"):
        parse(document)


def test_a_reference_means_the_live_or_its_own_generation() -> None:
    known = Metadata(2, (1, 2, 3))

    assert metadata.generation_of(known, WEB) == 2
    assert metadata.generation_of(known, WEB.at(3)) == 3
    with pytest.raises(
        errors.NotFound, match=r"alice/web:4 does not exist .* from 1 to 3 \(live: 2\)"
    ):
        metadata.generation_of(known, WEB.at(4))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.integers(0, 3) | json_values,
            "history": st.lists(st.fixed_dictionaries({"current_generation": json_values})),
            "total_generations": json_values,
            "currentGen": st.sampled_from(["1", "2"]) | json_values,
            "generations": st.dictionaries(st.sampled_from(["1", "2", "x"]), json_values),
        },
    )
)
def test_any_metadata_has_its_live_generation_among_the_known_or_is_refused(
    document: dict[str, Any],
) -> None:
    try:
        found = parse(document)
    except errors.CriProxyError:
        return

    assert found.live in found.generations
    assert list(found.generations) == sorted(set(found.generations))
