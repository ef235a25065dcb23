"""The realizer's worker jobs: from JSON to recipes and assembly, and back.

    realizer.recipe     {"reference", "revision", "lockfile", "lock_digest", "system", "mode",
                         "shell", "certificates", "has_shell"}
                        -> {"identity", "roots": [path, ...], "published": [path, ...],
                            "advice": {path: text}}
    realizer.assemble   the same and {"identity", "closure": [basename, ...], "nar_bytes"}
                        -> {"identity"}, or {"needs": [path, ...]}: store paths to fetch first;
                        both with "steps" (lib.steps)
    realizer.recover    {} -> {}: the node's directories exist, and hold nothing half done

`shell` and `certificates` are a store path and a file of the node, or None; `has_shell` asks for a
shell whatever the environment is. `advice` is for refusals of paths that cannot be had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from cri_proxy import errors
from cri_proxy.floxhub import lockfile
from cri_proxy.lib.steps import Steps
from cri_proxy.lib.worker import Job, Task
from cri_proxy.model import references, storepaths
from cri_proxy.model.environments import Mode
from cri_proxy.realizer import assembly, recipes
from cri_proxy.realizer.assembly import Provenance
from cri_proxy.realizer.recipes import Recipe
from cri_proxy.realizer.trees import Trees
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

RECIPE: Final = "realizer.recipe"
ASSEMBLE: Final = "realizer.assemble"
RECOVER: Final = "realizer.recover"


class Runner(Protocol):
    """Who runs worker jobs for the daemon: `lib.workers.Pool`."""

    async def call(self, job: str, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Run the job and return its result."""
        ...


def jobs(root: Path, paths: Path | None = None, *, is_own: bool = True) -> Mapping[str, Job]:
    """Return the jobs for the node's state below `root`.

    `paths` is where the store paths are, if not in the store below `root`; unless that `is_own`,
    it is kept by somebody else.
    """
    store = Store(paths or root / "store")
    places = _Places(store, Views(root / "environments", store), is_own)

    def recipe(argument: dict[str, Any], task: Task) -> dict[str, Any]:
        made = _recipe_of(argument)
        return {
            "identity": made.identity,
            "roots": [str(path) for path in made.roots],
            "published": [str(path) for path in made.published],
            "advice": {str(path): text for path, text in made.advice.items()},
        }

    def assemble(argument: dict[str, Any], task: Task) -> dict[str, Any]:
        return _assemble(argument, _recipe_of(argument), places, task)

    def recover(argument: dict[str, Any], task: Task) -> dict[str, Any]:
        Store(root / "store").recover()  # also where it stays empty: its leases are used
        places.views.recover()
        return {}

    return {RECIPE: recipe, ASSEMBLE: assemble, RECOVER: recover}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the node keeps store paths and the views of them."""

    store: Store
    views: Views
    is_own: bool


def _recipe_of(argument: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the lockfile that the argument names."""
    reference = references.parse(argument["reference"])
    data = Path(argument["lockfile"]).read_bytes()
    bundle = argument["certificates"]
    return recipes.of_lockfile(
        lockfile.parse(data, f"the lockfile of {reference}"),
        argument["lock_digest"],
        reference,
        Mode(argument["mode"]),
        recipes.Node(
            system=argument["system"],
            shell=argument["shell"],
            certificates_digest=hashlib.sha256(Path(bundle).read_bytes()).hexdigest()
            if bundle
            else "",
        ),
        has_shell=argument["has_shell"],
    )


def _assemble(
    argument: Mapping[str, Any], recipe: Recipe, places: _Places, task: Task
) -> dict[str, Any]:
    """Commit the view of an environment, unless store paths are missing for it."""
    closure = tuple(storepaths.of_basename(name) for name in argument["closure"])
    origin = Provenance(
        reference=references.parse(argument["reference"]),
        revision=argument["revision"],
        lock_digest=argument["lock_digest"],
        lockfile=Path(argument["lockfile"]),
        system=argument["system"],
        mode=Mode(argument["mode"]),
    )
    bundle = argument["certificates"]
    steps = Steps()
    with steps("realizer.render"):
        trees = Trees(places.store.directory)
        rendered = assembly.render(recipe, origin, closure, trees, Path(bundle) if bundle else None)
    if recipe.needs_shell and rendered.shell is None:
        return {"needs": [_shell_of(argument, closure)], "steps": steps.taken}
    if places.views.damaged(recipe.identity):
        places.views.mend(recipe.identity, task.check)
    with places.views.stage(recipe.identity, task.check) as stage:
        if not places.views.has(recipe.identity):
            mounted: tuple[Path, ...] = ()
            with steps("store.link"):
                if places.is_own or stage.can_link(closure):
                    stage.link(closure)
                else:
                    mounted = stage.leave_room(closure)
            assembly.write_tree(rendered, stage.store / recipe.flox_env.basename)
            place = places.views.locate(recipe.identity) / "store"
            environment = assembly.environment_of(
                recipe, origin, rendered, closure, argument["nar_bytes"], place
            )
            environment = replace(environment, mounted=mounted)
            (stage.directory / "environment.json").write_bytes(assembly.record(environment))
            with steps("store.commit"):
                stage.commit()
    return {"identity": recipe.identity, "steps": steps.taken}


def _shell_of(argument: Mapping[str, Any], closure: tuple[storepaths.StorePath, ...]) -> str:
    """Return the store path of the shell that the node gives to environments without one."""
    shell: str | None = argument["shell"]
    if shell is None:
        raise errors.EnvironmentUnsuitable(
            f"environment {argument['reference']} has a hook or variables that need a shell, and "
            "neither brings bash nor does the setting activation.shell name one for this system: "
            "install bash in the environment, or set activation.shell"
        )
    if storepaths.parse(shell) in closure:
        raise errors.EnvironmentUnsuitable(
            f"the setting activation.shell names {shell}, which has no bin/bash: "
            "name the store path of a bash"
        )
    return shell
