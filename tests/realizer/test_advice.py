"""What a recipe says of its packages: whose a store path is, what its pods will miss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri_proxy.floxhub import lockfile
from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.model.environments import Mode
from cri_proxy.model.lockfiles import Package, PackageKind
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import recipes
from cri_proxy.realizer.protocol import Ingredients
from cri_proxy.realizer.recipes import Recipe
from hack.testbed import environments

SYSTEM = "x86_64-linux"
PATH = StorePath("1" * 32, "tool")


def recipe_of(*, has_shell: bool = False, mode: Mode = Mode.RUN, hook: str | None = None) -> Recipe:
    lock = environments.lockfile(
        environments.Package("tool", PATH),
        hook=hook,
        profile="echo",
        services={"db": "postgres"},
        system=SYSTEM,
    )
    ingredients = Ingredients(
        Resolution(Reference("acme", "web", 1), "revision", "digest", Path("manifest.lock")),
        system=SYSTEM,
        mode=mode,
        shell=None,
        has_shell=has_shell,
        certificates=None,
    )
    parsed = lockfile.parse(json.dumps(lock).encode(), "the lockfile")
    return recipes.of_lockfile(parsed, ingredients, "")


def package_of(kind: PackageKind, *, is_unfree: bool = False, is_custom: bool = False) -> Package:
    return Package(
        install_id="mine",
        name="tool",
        kind=kind,
        system=SYSTEM,
        outputs={"out": PATH},
        is_unfree=is_unfree,
        is_custom_catalog=is_custom,
    )


def test_equal_inputs_are_one_environment() -> None:
    assert recipe_of().identity == recipe_of().identity


def test_mode_and_shell_make_it_another() -> None:
    made = [recipe_of(), recipe_of(mode=Mode.DEV), recipe_of(has_shell=True)]

    assert len({each.identity for each in made}) == len({each.flox_env for each in made}) == 3


def test_a_shell_that_is_needed_anyway_makes_no_other() -> None:
    assert recipe_of(hook="true").identity == recipe_of(hook="true", has_shell=True).identity


def test_services_and_profile_are_noted() -> None:
    manifest = recipe_of().manifest

    assert (manifest.services, manifest.has_profile) == (("db",), True)


def test_every_linked_path_has_its_package_named() -> None:
    assert "'tool'" in recipe_of().advice[PATH]


@pytest.mark.parametrize(
    ("package", "word"),
    [
        (package_of(PackageKind.FLAKE), "flake"),
        (package_of(PackageKind.STORE_PATH), "store path"),
        (package_of(PackageKind.CATALOG, is_unfree=True), "unfree"),
        (package_of(PackageKind.CATALOG, is_custom=True), "publish it again"),
        (package_of(PackageKind.CATALOG), "package"),
    ],
)
def test_what_to_do_about_a_package_that_no_cache_has(package: Package, word: str) -> None:
    text = recipes.advice_of(package)

    assert "'mine'" in text
    assert word in text
