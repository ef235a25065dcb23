"""The pinned inputs of the tarballs match the project's dependencies."""

from __future__ import annotations

import re
import tomllib

import pytest

from hack.dist import architectures, inputs


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (inputs.REPOSITORY / "hack/constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


@pytest.mark.parametrize("name", architectures.ALL)
def test_wheels_are_the_tested_versions(name: str) -> None:
    """To fix a failure, run python -m hack.dist --renew."""
    wheels = inputs.load(architectures.ALL[name]).wheels
    found = {normal(each.name): each.version for each in wheels}
    project = tomllib.loads((inputs.REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {normal(re.split(r"[><=!~ \[;]", each)[0]) for each in project["dependencies"]}

    known = constraints()
    assert found == {each: known[each] for each in found}
    assert wanted <= set(found)


def test_both_architectures_have_the_same_parts() -> None:
    one, other = (inputs.load(each) for each in architectures.ALL.values())

    assert [(each.name, each.version) for each in one.wheels] == [
        (each.name, each.version) for each in other.wheels
    ]
    assert [(each.name, each.version) for each in one.debian] == [
        (each.name, each.version) for each in other.debian
    ]
