"""The order in which variables are set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy.floxhub import lockfile, variables

LOCKFILES = Path(__file__).parents[1] / "data" / "lockfiles"


def names(ordered: variables.Variables) -> str:
    return " ".join(name for name, _ in ordered)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", set()),
        ("$A", {"A"}),
        ("${A}-x", {"A"}),
        ("a$A_1/b", {"A_1"}),
        ("${A:-$B}${C%%/*}", {"A", "B", "C"}),
        ("${#A} ${!B}", {"A", "B"}),
        ("$(echo $A `echo $B`)", {"A", "B"}),
        (r"\$A \${B}", set()),
        (r"\\$A", {"A"}),
        ("$1 $$ $? ${", set()),
        ("a\\\n$A", {"A"}),
    ],
)
def test_names_after_an_unescaped_dollar_are_mentioned(value: str, expected: set[str]) -> None:
    assert variables.mentioned_in(value) == expected


def test_a_variable_comes_after_those_it_mentions() -> None:
    lock = lockfile.parse((LOCKFILES / "vars_order.lock").read_bytes(), "vars_order.lock")

    assert variables.in_dependency_order(lock.manifest.variables) == (
        ("omega", "base"),
        ("alpha", "${omega}-x"),
    )


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"C": "1", "A": "2", "B": "3"}, "C A B"),
        ({"PATH": "$PATH:/x", "A": "$PATH"}, "PATH A"),
        ({"A": "$B", "B": "$C", "C": "1", "D": "2"}, "C B A D"),
        ({"B": "$A", "A": "$B", "C": "1"}, "C B A"),
        ({"X": "$B", "B": "$A", "A": "$B"}, "B X A"),
        ({"A": "$B", "B": "$A", "D": "$C", "C": "$D$A"}, "A B D C"),
        ({"A": "$UNKNOWN", "B": "$A"}, "A B"),
    ],
)
def test_the_declared_order_stays_where_nothing_else_is_mentioned(
    declared: dict[str, str], expected: str
) -> None:
    assert names(variables.in_dependency_order(tuple(declared.items()))) == expected


declarations = st.dictionaries(
    st.sampled_from("ABCDEFGH"),
    st.lists(st.sampled_from("ABCDEFGHZ"), max_size=3).map(
        lambda mentioned: "".join(f"${{{each}}}" for each in mentioned)
    ),
).map(lambda made: tuple(made.items()))


@given(declarations)
def test_every_order_has_all_variables_once_and_what_is_mentioned_first(
    declared: variables.Variables,
) -> None:
    ordered = variables.in_dependency_order(declared)

    assert sorted(ordered) == sorted(declared)
    values = dict(declared)
    place = {name: index for index, (name, _) in enumerate(ordered)}
    for name, value in declared:
        for other in variables.mentioned_in(value) & values.keys() - {name}:
            assert place[other] < place[name] or name in _reached_from(other, values)


def _reached_from(start: str, values: dict[str, str]) -> set[str]:
    found, border = {start}, [start]
    while border:
        fresh = (variables.mentioned_in(values[border.pop()]) & values.keys()) - found
        found |= fresh
        border.extend(fresh)
    return found


@given(declarations)
def test_an_order_that_is_right_already_stays_as_it_is(declared: variables.Variables) -> None:
    ordered = variables.in_dependency_order(declared)

    assert variables.in_dependency_order(ordered) == ordered or _has_circle(dict(declared))


def _has_circle(values: dict[str, str]) -> bool:
    return any(
        name in _reached_from(other, values)
        for name, value in values.items()
        for other in (variables.mentioned_in(value) & values.keys()) - {name}
    )


def test_many_variables_in_one_circle_are_ordered_all_the_same() -> None:
    count = 2000
    declared = tuple((f"V{index}", f"$V{(index + 1) % count}") for index in range(count))

    ordered = variables.in_dependency_order(declared)

    assert len(ordered) == count
    assert ordered[0] == declared[0]
    assert json.dumps(ordered)
