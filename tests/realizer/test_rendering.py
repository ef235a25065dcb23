"""The rules by which package trees become one tree, on listings given as plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.model.lockfiles import LinkedOutput
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import rendering
from cri_proxy.realizer.rendering import Entry, TargetKind

Tree = Mapping[str, "Tree | None"]


def store_path(name: str) -> StorePath:
    return StorePath(("0" * 31 + "abcdfghijk"[len(name) % 10]), name)


class Packages:
    """Package trees by store path: a dictionary is a directory, None a file."""

    def __init__(self, **trees: Tree) -> None:
        self.paths = {name: store_path(name) for name in trees}
        self._trees = {str(self.paths[name]): tree for name, tree in trees.items()}

    def listing(self, path: str) -> dict[str, Entry]:
        root = "/".join(path.split("/")[:4])
        tree: Tree | None = self._trees[root]
        for part in path.split("/")[4:]:
            tree = tree[part] if tree is not None else None
        return {
            name: Entry(
                TargetKind.FILE if below is None else TargetKind.DIRECTORY, f"{path}/{name}"
            )
            for name, below in (tree or {}).items()
        }

    def plan(self, **priorities: int) -> rendering.TreePlan:
        linked = [
            LinkedOutput(self.paths[name], priority, name) for name, priority in priorities.items()
        ]
        return rendering.plan(linked, self.listing)


def test_a_directory_of_one_package_is_one_link() -> None:
    packages = Packages(hello={"bin": {"hello": None}, "share": {"man": {"man1": {}}}})

    plan = packages.plan(hello=5)

    assert plan.directories == []
    assert plan.links == {
        "bin": f"{packages.paths['hello']}/bin",
        "share": f"{packages.paths['hello']}/share",
    }


def test_a_directory_of_several_packages_is_made_and_its_entries_are_linked() -> None:
    packages = Packages(one={"bin": {"a": None}}, three={"bin": {"b": None}, "lib": {"c": None}})

    plan = packages.plan(one=5, three=5)

    assert plan.directories == ["bin"]
    assert plan.links == {
        "bin/a": f"{packages.paths['one']}/bin/a",
        "bin/b": f"{packages.paths['three']}/bin/b",
        "lib": f"{packages.paths['three']}/lib",
    }


def test_the_lower_priority_number_wins_a_file() -> None:
    packages = Packages(one={"bin": {"tool": None}}, three={"bin": {"tool": None}})

    plan = packages.plan(one=6, three=5)

    assert plan.links["bin/tool"] == f"{packages.paths['three']}/bin/tool"


def test_equal_priorities_are_refused_with_both_names_and_the_path() -> None:
    packages = Packages(one={"bin": {"tool": None}}, three={"bin": {"tool": None}})

    with pytest.raises(errors.EnvironmentUnsuitable) as refusal:
        packages.plan(one=5000, three=5000)

    assert "with priority 5:" in str(refusal.value)
    assert "'one'" in str(refusal.value)
    assert "'three'" in str(refusal.value)
    assert "bin/tool" in str(refusal.value)


def test_equal_priorities_pass_when_both_lead_to_the_same_file() -> None:
    shared = Entry(TargetKind.FILE, "/nix/store/somewhere/tool")
    one, two = store_path("one"), store_path("three")

    plan = rendering.plan(
        [LinkedOutput(one, 5, "one"), LinkedOutput(two, 5, "three")], lambda _: {"tool": shared}
    )

    assert plan.links == {"tool": f"{one}/tool"}


def test_what_may_collide_stands_back_silently() -> None:
    packages = Packages(one={"bin": {"tool": None}}, three={"bin": {"tool": None}})
    linked = [
        LinkedOutput(packages.paths["one"], 5, "one"),
        LinkedOutput(packages.paths["three"], 5, "three", may_collide=True),
    ]

    plan = rendering.plan(linked, packages.listing)

    assert plan.links["bin/tool"] == f"{packages.paths['one']}/bin/tool"


def test_a_file_against_a_directory_of_equal_priority_is_refused() -> None:
    packages = Packages(one={"share": None}, three={"share": {"doc": None}})

    with pytest.raises(errors.EnvironmentUnsuitable, match="share"):
        packages.plan(one=5, three=5)


def test_what_concerns_only_its_own_package_is_left_out() -> None:
    packages = Packages(
        one={
            "nix-support": {"x": None},
            "propagated-build-inputs": None,
            "log": None,
            "info": {"dir": None, "one.info": None},
            "share": {"mime": {"packages": {"one.xml": None}, "cache": None}},
        },
        three={"info": {"dir": None}, "share": {"info": {"dir": None}, "mime": {"cache": None}}},
    )

    plan = packages.plan(one=5, three=5)

    assert set(plan.links) == {"info/one.info", "share/info", "share/mime/packages"}


names = st.sampled_from(["a", "b", "c"])
trees = st.recursive(
    st.none(), lambda below: st.dictionaries(names, below, max_size=3), max_leaves=8
).filter(lambda tree: tree is not None)


@settings(max_examples=200, deadline=None)
@given(one=trees, three=trees)
def test_every_file_of_every_package_is_reachable_or_outranked(one: Tree, three: Tree) -> None:
    """With distinct priorities no plan fails, and the better package is wholly there."""
    packages = Packages(one=one, three=three)

    plan = packages.plan(one=5, three=6)

    assert plan.directories == sorted(plan.directories, key=lambda place: place.split("/"))
    for place in files_of(one):
        assert followed(plan, place) == f"{packages.paths['one']}/{place}"


def files_of(tree: Tree, at: str = "") -> list[str]:
    found = []
    for name, below in tree.items():
        place = f"{at}/{name}" if at else name
        found += [place] if below is None else files_of(below, place)
    return found


def followed(plan: rendering.TreePlan, place: str) -> str:
    parts = place.split("/")
    for length in range(1, len(parts) + 1):
        link = plan.links.get("/".join(parts[:length]))
        if link is not None:
            return "/".join([link, *parts[length:]])
    raise AssertionError(f"{place} is in no plan")
