"""Recipes: what a lockfile means for an environment on this system, before anything is fetched.

A recipe has the store paths to link (and so, with all they reference, to fetch), the variables to
set, whether a shell is needed, and the environment's identity. That is a digest over everything
that the result depends on, so that equal environments are made once and one that is in place is
found by its name alone. Pure: a lockfile and the node's settings in, a `Recipe` out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from cri_proxy.floxhub import outputs, variables
from cri_proxy.lib import nixbase32
from cri_proxy.model.lockfiles import LinkedOutput, Lockfile, Manifest, Package, PackageKind
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import activation
from cri_proxy.realizer.protocol import Ingredients

# What assembly makes out of the same inputs; counted up when that changes.
EDITION: Final = 1
_DIGEST_BYTES: Final = 20  # as a store path has them: 32 letters


@dataclass(frozen=True, slots=True)
class Recipe:
    """The paths to fetch and link, and the variables in the order of setting, of one environment.

    `published` are those of the linked paths that come from an organization's own catalog.
    `advice` says of a linked store path which package it is and what to do when no cache has it.
    """

    identity: str
    flox_env: StorePath
    linked: tuple[LinkedOutput, ...]
    published: tuple[StorePath, ...]
    manifest: Manifest
    variables: tuple[tuple[str, str], ...]
    needs_shell: bool
    advice: Mapping[StorePath, str]

    @property
    def roots(self) -> tuple[StorePath, ...]:
        """The store paths that must be on the node with all that they reference."""
        return tuple(dict.fromkeys(output.path for output in self.linked))


def of_lockfile(lock: Lockfile, ingredients: Ingredients, certificates_digest: str) -> Recipe:
    """Return the recipe of `lock`, which is the parsed lockfile of the ingredients.

    `certificates_digest` is the SHA-256 of the CA bundle among them, empty when there is none.
    Raises EnvironmentUnsuitable when the environment is not locked for the node's system or cannot
    be activated.
    """
    reference, system = ingredients.resolution.reference, ingredients.system
    outputs.suits(lock, system)
    ordered = variables.in_dependency_order(lock.manifest.variables)
    activation.envrc(ordered)
    is_static = activation.is_static(ordered, lock.manifest.on_activate)
    needs_shell = ingredients.has_shell or not is_static
    inputs = json.dumps(
        {
            "edition": EDITION,
            "owner": reference.owner,
            "name": reference.name,
            "lock": ingredients.resolution.lock_digest,
            "system": system,
            "mode": str(ingredients.mode),
            "has_shell": needs_shell,
            "shell": ingredients.shell if needs_shell else None,
            "certificates": certificates_digest,
            "activate": hashlib.sha256(activation.script()).hexdigest(),
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    digest = nixbase32.encode(hashlib.sha256(inputs.encode()).digest()[:_DIGEST_BYTES])
    linked = outputs.linked_outputs(lock, system)
    packages = {each.install_id: each for each in outputs.packages_for(lock, system)}
    return Recipe(
        identity=f"{digest}-{reference.owner}-{reference.name}",
        flox_env=StorePath(digest, f"environment-{ingredients.mode}"),
        linked=linked,
        published=tuple(
            dict.fromkeys(
                each.path for each in linked if packages[each.install_id].is_custom_catalog
            )
        ),
        manifest=lock.manifest,
        variables=ordered,
        needs_shell=needs_shell,
        advice={each.path: advice_of(packages[each.install_id]) for each in linked},
    )


def advice_of(package: Package) -> str:
    """Return which package a store path is, and what to do when no cache has it, for an error."""
    name = f"it is the package {package.install_id!r} of the environment"
    match package.kind:
        case PackageKind.FLAKE:
            return (
                f"{name}, which comes from a flake and is never built on a node: build it and push "
                "it to a binary cache of this node, or publish it to a catalog"
            )
        case PackageKind.STORE_PATH:
            return (
                f"{name}, which was installed as a store path and is only where it was built: copy "
                "it from there to a binary cache of this node"
            )
        case PackageKind.CATALOG if package.is_unfree:
            return (
                f"{name}, which is unfree, so public caches do not carry it and it is never built "
                "on a node: build it and push it to a binary cache of this node"
            )
        case PackageKind.CATALOG if package.is_custom_catalog:
            return f"{name}, from a catalog of its own: publish it again, for this system too"
        case PackageKind.CATALOG:
            return name
        case _:
            assert_never(package.kind)
