"""What a lockfile comes to on this system, and what makes two environments the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cri_proxy import errors
from cri_proxy.floxhub import lockfile
from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.model import storepaths
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.realizer import recipes
from cri_proxy.realizer.protocol import Ingredients
from hack.testbed import environments
from hack.testbed.environments import Package

SYSTEM = "x86_64-linux"
REFERENCE = Reference("acme", "web", 3)
HELLO = Package("hello", storepaths.of_basename("0" * 32 + "-hello"))


def recipe_of(
    lock: dict[str, Any],
    *,
    reference: Reference = REFERENCE,
    mode: Mode = Mode.RUN,
    shell: str = "/nix/store/x",
    certificates_digest: str = "c",
    digest: str = "d",
) -> recipes.Recipe:
    parsed = lockfile.parse(json.dumps(lock).encode(), "the lockfile")
    ingredients = Ingredients(
        Resolution(reference, "revision", digest, Path("manifest.lock")),
        system=SYSTEM,
        mode=mode,
        shell=shell,
        has_shell=False,
        certificates=Path("ca.crt"),
    )
    return recipes.of_lockfile(parsed, ingredients, certificates_digest)


def lock_of(**parts: Any) -> dict[str, Any]:
    return environments.lockfile(HELLO, system=SYSTEM, **parts)


def test_the_roots_are_the_linked_outputs() -> None:
    recipe = recipe_of(lock_of())

    assert recipe.roots == (HELLO.path,)
    assert recipe.flox_env.name == "environment-run"
    assert recipe.identity == f"{recipe.flox_env.digest}-acme-web"


def test_packages_of_a_custom_catalog_are_published() -> None:
    app = Package("app", storepaths.of_basename("1" * 32 + "-app"), catalog="acme")

    recipe = recipe_of(environments.lockfile(HELLO, app, system=SYSTEM))

    assert recipe.published == (app.path,)
    assert recipe.roots == (HELLO.path, app.path)


def test_variables_are_in_the_order_in_which_they_must_be_set() -> None:
    recipe = recipe_of(lock_of(variables={"A": "${B}/x", "B": "b"}))

    assert [name for name, _ in recipe.variables] == ["B", "A"]
    assert recipe.needs_shell


def test_an_environment_without_hook_and_expansion_needs_no_shell() -> None:
    assert not recipe_of(lock_of(variables={"A": "b"})).needs_shell


def test_generations_of_equal_content_are_one_environment() -> None:
    assert (
        recipe_of(lock_of()).identity
        == recipe_of(lock_of(), reference=Reference("acme", "web", 4)).identity
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "other"},
        {"reference": Reference("acme", "other", 3)},
        {"mode": Mode.DEV},
        {"certificates_digest": "other"},
    ],
    ids=["lockfile", "name", "mode", "certificates"],
)
def test_whatever_changes_the_result_changes_the_identity(changes: dict[str, Any]) -> None:
    assert recipe_of(lock_of()).identity != recipe_of(lock_of(), **changes).identity


def test_the_nodes_shell_counts_only_where_it_is_needed() -> None:
    other = "/nix/store/y"
    hooked = lock_of(hook="true")

    assert recipe_of(lock_of()).identity == recipe_of(lock_of(), shell=other).identity
    assert recipe_of(hooked).identity != recipe_of(hooked, shell=other).identity


def test_an_environment_for_another_system_is_refused() -> None:
    with pytest.raises(errors.EnvironmentUnsuitable, match="aarch64-linux"):
        recipe_of(environments.lockfile(HELLO, system="aarch64-linux"))
