"""manifest.lock, as Flox writes it and as it must not be."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import lockfile
from cri_proxy.model import storepaths
from cri_proxy.model.lockfiles import Descriptor, Lockfile, PackageKind

LOCKFILES = Path(__file__).parents[1] / "data" / "lockfiles"
MIXED = json.loads((LOCKFILES / "mixed.lock").read_bytes())


def load(name: str) -> Lockfile:
    return lockfile.parse((LOCKFILES / f"{name}.lock").read_bytes(), f"{name}.lock")


def parse(document: object) -> Lockfile:
    return lockfile.parse(json.dumps(document).encode(), "manifest.lock of alice/web:3")


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """Return the mixed lockfile with another value at a place; Ellipsis removes what is there."""
    document: dict[str, Any] = copy.deepcopy(MIXED)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return document


@pytest.mark.parametrize("file", sorted(LOCKFILES.glob("*.lock")), ids=lambda file: file.stem)
def test_every_lockfile_at_hand_parses(file: Path) -> None:
    found = lockfile.parse(file.read_bytes(), file.name)

    locked = json.loads(file.read_bytes())["packages"]
    assert [each.install_id for each in found.packages] == [each["install_id"] for each in locked]


def test_a_real_catalog_package_is_read_whole() -> None:
    package = load("bash").packages[2]

    assert package.name == "bash-5.3p15"
    assert package.kind is PackageKind.CATALOG
    assert package.system == "x86_64-linux"
    assert package.outputs_to_install == ("man", "out")
    assert sorted(package.outputs) == ["debug", "dev", "doc", "info", "man", "out"]
    assert package.outputs["out"] == storepaths.parse(
        "/nix/store/7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15"
    )
    assert package.priority == 5
    assert not any((package.is_unfree, package.is_custom_catalog))


def test_a_real_manifest_of_version_1_is_read_whole() -> None:
    manifest = load("on-activate").manifest

    assert manifest.links_all
    assert manifest.variables == (("foo", "bar"),)
    assert manifest.on_activate == '    mkdir -p dummy_dir\n    export foo="baz"\n'
    assert not manifest.has_profile
    assert manifest.services == ()
    assert manifest.systems == (
        "aarch64-darwin",
        "x86_64-darwin",
        "aarch64-linux",
        "x86_64-linux",
    )


def test_a_manifest_with_a_schema_version_is_read_whole() -> None:
    manifest = load("mixed").manifest

    assert not manifest.links_all
    assert manifest.variables == (("GREETING", "hello ${USER}"), ("ROOT", "/srv"))
    assert manifest.on_activate == "echo up\n"
    assert manifest.has_profile
    assert manifest.services == ("web", "queue")
    assert manifest.systems == ("aarch64-linux", "x86_64-linux")
    assert manifest.install[1] == Descriptor("tools", "coreutils", outputs=("out", "info"))
    assert manifest.install[3] == Descriptor("mac-only", "mas", systems=("aarch64-darwin",))


def test_kinds_of_packages_are_told_apart_by_their_keys() -> None:
    app, tools, plain, flake, pinned = load("mixed").packages

    assert [each.kind for each in (app, tools, plain, flake, pinned)] == [
        PackageKind.CATALOG,
        PackageKind.CATALOG,
        PackageKind.CATALOG,
        PackageKind.FLAKE,
        PackageKind.STORE_PATH,
    ]
    assert flake.outputs_to_install == ("out",)
    assert flake.priority == 5
    assert pinned.name == "pinned-1.0"
    assert list(pinned.outputs) == ["out"]
    assert pinned.priority == 6
    assert app.is_unfree


def test_only_a_pkg_path_with_an_owner_is_of_a_custom_catalog() -> None:
    custom = [each.install_id for each in load("mixed").packages if each.is_custom_catalog]

    assert custom == ["app"]


def test_variables_keep_their_declared_order() -> None:
    names = [f"V{number}" for number in (5, 3, 9, 1, 7)]
    lock = parse(changed("manifest", "vars", to={name: name.lower() for name in names}))

    assert [name for name, _ in lock.manifest.variables] == names


@pytest.mark.parametrize("script", [None, "", "  \n\t"])
def test_a_hook_or_profile_with_nothing_to_run_is_none(script: str | None) -> None:
    document = changed("manifest", "hook", to={"on-activate": script})
    document["manifest"]["profile"] = {"bash": script}
    manifest = parse(document).manifest

    assert manifest.on_activate is None
    assert not manifest.has_profile


def test_the_barest_lockfile_is_an_empty_environment() -> None:
    lock = parse({"lockfile-version": 1, "manifest": {"version": 1}, "packages": []})

    assert lock == Lockfile(lock.manifest)
    assert lock.manifest.variables == ()
    assert lock.manifest.systems is None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (changed("lockfile-version", to=2), "lockfile-version is 2"),
        (changed("lockfile-version", to=0), "lockfile-version is 0"),
        (changed("manifest", "schema-version", to="2.0.0"), "schema-version is 2.0.0"),
        (changed("manifest", to={"version": 2}), "manifest.version is 2"),
        (changed("manifest", "vars", to={"MY-VAR": "x"}), "MY-VAR in .vars. cannot be the name"),
        (changed("manifest", "vars", to={"A=B": "x"}), "A=B in .vars. cannot be the name"),
        (changed("manifest", "vars", to={"": "x"}), "cannot be the name of a variable"),
    ],
)
def test_what_is_beyond_this_program_is_unsuitable(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(
        errors.EnvironmentUnsuitable, match=f"manifest.lock of alice/web:3.*{sentence}"
    ):
        parse(document)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "the whole must be an object"),
        ({}, "lacks lockfile-version"),
        (changed("lockfile-version", to="1"), "lockfile-version must be a whole number"),
        (changed("packages", to=...), "lacks packages"),
        (changed("packages", to={}), "packages must be an array"),
        (changed("manifest", to=None), "lacks manifest"),
        (changed("manifest", to={}), "lacks manifest.version"),
        (changed("manifest", "vars", to=["A"]), "manifest.vars must be an object"),
        (changed("manifest", "vars", to={"A": 1}), "manifest.vars.A must be a text"),
        (changed("manifest", "vars", to={"A": "\0"}), "manifest.vars.A is damaged"),
        (changed("manifest", "hook", to="x"), "manifest.hook must be an object"),
        (changed("manifest", "hook", "on-activate", to=3), "manifest.hook.on-activate must be"),
        (changed("manifest", "options", "systems", to="x"), "options.systems must be an array"),
        (changed("manifest", "install", "app", to=1), "manifest.install.app must be an object"),
        (
            changed("manifest", "install", "tools", "outputs", to="out"),
            'install.tools.outputs must be "all" or an array',
        ),
        (changed("packages", 0, "install_id", to=...), r"lacks packages\[0\].install_id"),
        (changed("packages", 0, "system", to=1), r"packages\[0\].system must be a text"),
        (changed("packages", 0, "attr_path", to=...), r"packages\[0\] must be a package from"),
        (changed("packages", 0, "outputs", to=...), r"lacks packages\[0\].outputs"),
        (changed("packages", 0, "priority", to="5"), r"packages\[0\].priority must be a whole"),
        (changed("packages", 0, "priority", to=10**9), r"packages\[0\].priority must be a prio"),
        (changed("packages", 0, "unfree", to="no"), r"packages\[0\].unfree must be true or f"),
        (
            changed("packages", 0, "outputs", "out", to="/nix/store/../etc"),
            r"packages\[0\].outputs.out must be a store path",
        ),
        (
            changed("packages", 0, "outputs", "out", to="/tmp/0v4gz9k1dwxr5wgnfxwh1sjv5jk0m7bp-a"),
            r"packages\[0\].outputs.out must be a store path",
        ),
        (
            changed("packages", 4, "store_path", to="/nix/store/short-pinned"),
            r"packages\[4\].store_path must be a store path",
        ),
    ],
)
def test_a_lockfile_that_contradicts_its_format_is_damaged_and_the_place_is_told(
    document: object, sentence: str
) -> None:
    with pytest.raises(errors.ContentDamaged, match=f"manifest.lock of alice/web:3.*{sentence}"):
        parse(document)


def test_a_key_that_is_there_twice_is_damage() -> None:
    text = (LOCKFILES / "vars_order.lock").read_text()
    twice = text.replace('"omega": "base"', '"omega": "base", "omega": "other"')

    with pytest.raises(errors.ContentDamaged, match="the key omega occurs twice"):
        lockfile.parse(twice.encode(), "manifest.lock")


def test_a_lockfile_of_absurd_size_is_refused_unread() -> None:
    with pytest.raises(errors.ContentDamaged, match="more than the"):
        lockfile.parse(b" " * (lockfile.SIZE_LIMIT + 1), "manifest.lock")


def places(value: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [prefix][: len(prefix)] + [
        place for key, each in inner for place in places(each, (*prefix, key))
    ]


@given(
    st.sampled_from(places(MIXED)),
    st.sampled_from([..., None, True, 0, -1, 1.5, "", "all", "\0", "x", [], ["x"], {}, {"x": 1}])
    | st.text()
    | st.integers(),
)
def test_a_lockfile_with_anything_anywhere_parses_or_is_refused(
    place: tuple[str | int, ...], value: object
) -> None:
    with contextlib.suppress(errors.ContentDamaged, errors.EnvironmentUnsuitable):
        assert hash(parse(changed(*place, to=value)).manifest)
