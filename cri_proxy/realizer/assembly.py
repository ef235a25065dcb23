"""Assembly of an environment out of a closure in the store and a recipe.

Runs in a worker. The packages' trees are listed, FLOX_ENV is planned (`rendering`) and laid beside
hard links of the whole closure, the record is written, and the view is committed as one. FLOX_ENV
holds, beside the packages' links, what is Flox's in Flox's own environments:

    activate                        the script that execs the program (`activation`)
    activate.d/envrc                exports of [vars]
    activate.d/hook-on-activate     the hook, when there is one
    activate.d/ca-bundle.crt        the node's CA certificates, when no package brings any
    manifest.lock  requisites.txt   what the environment was made from, and its closure
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub.outputs import STEPS
from cri_proxy.model import storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.lockfiles import LinkedOutput
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import activation, rendering
from cri_proxy.realizer.protocol import Assembly, Ingredients
from cri_proxy.realizer.recipes import Recipe
from cri_proxy.realizer.rendering import TargetKind, TreePlan
from cri_proxy.realizer.trees import Trees

_PROPAGATED: Final = "nix-support/propagated-user-env-packages"
_PROPAGATED_TO_BUILDS: Final = "nix-support/propagated-build-inputs"
_OURS: Final = ("activate", "activate.d", "manifest.lock", "requisites.txt")
_CA_BUNDLE: Final = "etc/ssl/certs/ca-bundle.crt"
_LOCALES: Final = "lib/locale/locale-archive"
_BASH: Final = "bin/bash"


@dataclass(frozen=True, slots=True)
class Rendered:
    """FLOX_ENV, ready to be written, and its properties for the record."""

    plan: TreePlan
    files: dict[str, bytes]
    shell: str | None
    certificates: str | None
    locale_archive: str | None


def packages_of(recipe: Recipe, mode: Mode, trees: Trees) -> tuple[LinkedOutput, ...]:
    """Return what to link: the recipe's outputs and, behind them, what these propagate."""
    linked = list(recipe.linked)
    known = {each.path for each in linked}
    steps = count(1)
    for each in linked:
        for path in _propagated(each.path, mode, trees):
            if path not in known:
                known.add(path)
                priority = each.priority // STEPS * STEPS + next(steps)
                linked.append(LinkedOutput(path, priority, path.name, may_collide=True))
    return tuple(linked)


def find_shell(
    recipe: Recipe, closure: Iterable[StorePath], plan: TreePlan, trees: Trees
) -> str | None:
    """Return the path of a bash in the closure, the environment's own before any other."""
    if _found(plan, _BASH, trees):
        return f"{recipe.flox_env}/{_BASH}"
    for path in sorted(closure, key=lambda each: each.name):
        if trees.entry(f"{path}/{_BASH}").kind is TargetKind.FILE:
            return f"{path}/{_BASH}"
    return None


def render(
    recipe: Recipe, ingredients: Ingredients, closure: tuple[StorePath, ...], trees: Trees
) -> Rendered:
    """Return FLOX_ENV for a closure that is all in the store; `shell` is None if none was found.

    Raises EnvironmentUnsuitable when packages conflict.
    """
    plan = rendering.plan(packages_of(recipe, ingredients.mode, trees), trees.listing)
    for name in _OURS:
        plan.links.pop(name, None)
    files = {
        "activate": activation.script(),
        "activate.d/envrc": activation.envrc(recipe.variables).encode(),
        "manifest.lock": ingredients.resolution.lockfile.read_bytes(),
        "requisites.txt": "".join(
            f"{path}\n" for path in sorted({*closure, recipe.flox_env})
        ).encode(),
    }
    if recipe.manifest.on_activate:
        files["activate.d/hook-on-activate"] = recipe.manifest.on_activate.encode()
    bundle = _CA_BUNDLE if _found(plan, _CA_BUNDLE, trees) else None
    if bundle is None and ingredients.certificates is not None:
        bundle = "activate.d/ca-bundle.crt"
        files[bundle] = ingredients.certificates.read_bytes()
    return Rendered(
        plan=plan,
        files=files,
        shell=find_shell(recipe, closure, plan, trees) if recipe.needs_shell else None,
        certificates=bundle and f"{recipe.flox_env}/{bundle}",
        locale_archive=f"{recipe.flox_env}/{_LOCALES}" if _found(plan, _LOCALES, trees) else None,
    )


def environment_of(
    recipe: Recipe, assembly: Assembly, rendered: Rendered, store: Path
) -> Environment:
    """Return the record of the environment whose view is to be at `store`."""
    ingredients = assembly.ingredients
    resolution = ingredients.resolution
    return Environment(
        identity=recipe.identity,
        reference=resolution.reference,
        revision=resolution.revision,
        lock_digest=resolution.lock_digest,
        system=ingredients.system,
        mode=ingredients.mode,
        flox_env=recipe.flox_env,
        shell=rendered.shell,
        variables=activation.static_variables(recipe.variables),
        closure=tuple(sorted({*assembly.closure, recipe.flox_env})),
        nar_bytes=assembly.nar_bytes,
        realized_at=time.time(),
        store=store,
        services=recipe.manifest.services,
        has_profile=recipe.manifest.has_profile,
        certificates=rendered.certificates,
        locale_archive=rendered.locale_archive,
    )


def write_tree(rendered: Rendered, target: Path) -> None:
    """Lay FLOX_ENV out at `target`; the view's commit gives it the modes of a store path."""
    for place in ("", *rendered.plan.directories, "activate.d"):
        (target / place).mkdir()
    for place, destination in rendered.plan.links.items():
        (target / place).symlink_to(destination)
    for place, data in rendered.files.items():
        (target / place).write_bytes(data)
    (target / "activate").chmod(0o755)


def _propagated(path: StorePath, mode: Mode, trees: Trees) -> list[StorePath]:
    """Return the store paths that `path` propagates: they are linked wherever it is."""
    words = list(trees.words(f"{path}/{_PROPAGATED}"))
    if mode is Mode.DEV:
        words += [
            word
            for word in trees.words(f"{path}/{_PROPAGATED_TO_BUILDS}")
            if not word.endswith("-stubs")
        ]
    found = []
    for word in words:
        try:
            found.append(storepaths.parse(word))
        except errors.RequestInvalid:
            raise errors.EnvironmentUnsuitable(
                f"{path} propagates {word[:200]!a}, which is no store path: take the package out "
                "of the environment or report it to its publisher"
            ) from None
    return found


def _found(plan: TreePlan, place: str, trees: Trees) -> bool:
    """Return whether FLOX_ENV has a file at `place`, even below a directory that is one link."""
    parts = place.split("/")
    for length in range(1, len(parts) + 1):
        link = plan.links.get("/".join(parts[:length]))
        if link is not None:
            below = "/".join([link, *parts[length:]])
            return trees.entry(below).kind is TargetKind.FILE
    return False
