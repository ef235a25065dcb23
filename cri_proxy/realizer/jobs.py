"""The worker's side of the realizer's jobs: a lockfile becomes a recipe, and a closure a view."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from cri_proxy import errors
from cri_proxy.floxhub import lockfile
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.lib.timings import Timings
from cri_proxy.model import environments, storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import assembly, protocol, recipes
from cri_proxy.realizer.protocol import Assembled, Assembly, Ingredients, Requirements
from cri_proxy.realizer.recipes import Recipe
from cri_proxy.realizer.trees import Trees
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views


def jobs(root: Path, paths: Path | None = None, *, is_own: bool = True) -> Jobs:
    """Return the jobs for the node's state below `root`.

    `paths` is where the store paths are, if not in the store below `root`; unless `is_own`, another
    program keeps them there.
    """
    store = Store(paths or root / "store")
    assembling = _Assembling(store, Views(root / "environments", store), is_own)

    def recipe(argument: Ingredients, task: Task[None]) -> Requirements:
        made = _recipe_of(argument)
        advice = {str(path): text for path, text in made.advice.items()}
        return Requirements(made.identity, made.roots, made.published, advice)

    def recover(argument: None, task: Task[None]) -> None:
        Store(root / "store").recover()  # even where it stays empty: its leases are used
        assembling.views.recover()

    return Jobs(
        protocol.RECIPE.run_by(recipe),
        protocol.ASSEMBLE.run_by(assembling.assemble),
        protocol.RECOVER.run_by(recover),
    )


@dataclass(frozen=True, slots=True)
class _Assembling:
    """Where the node keeps store paths and the views of them."""

    store: Store
    views: Views
    is_own: bool

    def assemble(self, argument: Assembly, task: Task[None]) -> Assembled:
        """Commit the view of an environment, unless a store path is missing for it."""
        ingredients, closure = argument.ingredients, argument.closure
        recipe = _recipe_of(ingredients)
        timings = Timings()
        with timings("realizer.render"):
            trees = Trees(self.store.directory)
            rendered = assembly.render(recipe, ingredients, closure, trees)
        if recipe.needs_shell and rendered.shell is None:
            return Assembled(timings.taken, needs=_shell_of(ingredients, closure))
        if self.views.damaged(recipe.identity):
            self.views.repair(recipe.identity, task.check)
        with self.views.stage(recipe.identity, task.check) as stage:
            if not self.views.has(recipe.identity):
                mounted: tuple[Path, ...] = ()
                with timings("store.link"):
                    if self.is_own or stage.can_link(closure):
                        stage.link(closure)
                    else:
                        mounted = stage.make_mount_points(closure)
                assembly.write_tree(rendered, stage.store / recipe.flox_env.basename)
                place = self.views.locate(recipe.identity) / "store"
                environment = replace(
                    assembly.environment_of(recipe, argument, rendered, place), mounted=mounted
                )
                (stage.directory / "environment.json").write_bytes(
                    json.dumps(environments.to_json(environment), indent=1).encode() + b"\n"
                )
                with timings("store.commit"):
                    stage.commit()
        return Assembled(timings.taken)


def _recipe_of(ingredients: Ingredients) -> Recipe:
    resolution, bundle = ingredients.resolution, ingredients.certificates
    return recipes.of_lockfile(
        lockfile.parse(resolution.lockfile.read_bytes(), f"the lockfile of {resolution.reference}"),
        ingredients,
        hashlib.sha256(bundle.read_bytes()).hexdigest() if bundle else "",
    )


def _shell_of(ingredients: Ingredients, closure: tuple[StorePath, ...]) -> StorePath:
    """Return the store path of the shell that the node gives to environments without one."""
    if ingredients.shell is None:
        raise errors.EnvironmentUnsuitable(
            f"environment {ingredients.resolution.reference} has a hook or variables that need a "
            "shell, and neither brings bash nor does the setting activation.shell name one for "
            "this system: install bash in the environment, or set activation.shell"
        )
    shell = storepaths.parse(ingredients.shell)
    if shell in closure:
        raise errors.EnvironmentUnsuitable(
            f"the setting activation.shell names {shell}, which has no bin/bash: "
            "name the store path of a bash"
        )
    return shell
