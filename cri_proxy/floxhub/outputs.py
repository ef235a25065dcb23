"""Which outputs of a lockfile are linked on a node, and whether the lockfile suits its system.

Both are decided from the lockfile alone, and as Flox's own buildenv decides them, so that a pod
sees the tree that `flox activate` shows on its author's machine.

Priorities are on the scale of buildenv: a thousand times the package's priority, plus the place of
the output. A manifest of `version = 1` links every output but those named `stubs`: the ones to
install share the package's own step, each other one has a step that nothing else in the environment
has. A manifest with a schema-version links what the descriptor asks for (`outputs`), else the
outputs to install; the outputs of one package stand on successive steps, so that they never clash
with each other and clash with another package's only where the author must decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from cri_proxy import errors
from cri_proxy.model.lockfiles import Descriptor, LinkedOutput, Lockfile, Package
from cri_proxy.model.storepaths import StorePath

STEPS: Final = 1000
"""Priorities between one package priority and the next."""

_NEVER_LINKED: Final = "stubs"
_SHOWN_NAMES: Final = 5


def suits(lock: Lockfile, system: str) -> None:
    """Raise EnvironmentUnsuitable when the environment cannot run on `system`.

    That is so when the manifest lists its systems without this one, or when a package that is
    wanted on this system is not locked for it.
    """
    systems = lock.manifest.systems
    if systems is not None and system not in systems:
        raise errors.EnvironmentUnsuitable(
            f"the environment is only for {_listed(systems) or 'no system'}, and this node is "
            f"{system}: add {system} to options.systems in its manifest, or select another node"
        )
    locked = {each.install_id for each in packages_for(lock, system)}
    missing = [
        each.install_id
        for each in lock.manifest.install
        if (each.systems is None or system in each.systems) and each.install_id not in locked
    ]
    if missing or (lock.packages and not locked and not lock.manifest.install):
        raise errors.EnvironmentUnsuitable(
            f"{_listed(missing) or 'the environment'} is not locked for {system}, which this node "
            f"is: add {system} to options.systems in the manifest and push again, or select "
            f"another node"
        )


def packages_for(lock: Lockfile, system: str) -> tuple[Package, ...]:
    """Return the packages that are locked for `system`."""
    return tuple(each for each in lock.packages if each.system == system)


def linked_outputs(lock: Lockfile, system: str) -> tuple[LinkedOutput, ...]:
    """Return what is linked on `system`, in the lockfile's order of packages.

    Raises EnvironmentUnsuitable when a descriptor asks for an output that its package lacks, and
    ContentDamaged for a package that the manifest does not install.
    """
    descriptors = {each.install_id: each for each in lock.manifest.install}
    others = count(1)
    linked: list[LinkedOutput] = []
    for package in packages_for(lock, system):
        descriptor = descriptors.get(package.install_id)
        if descriptor is None:
            raise errors.ContentDamaged(
                f"the lockfile has the package {package.install_id}, which its manifest does not "
                f"install: lock and push the environment again"
            )
        if lock.manifest.links_all:
            linked.extend(_all_of(package, others))
        else:
            linked.extend(_chosen_of(package, descriptor))
    return tuple(linked)


def _all_of(package: Package, others: Iterator[int]) -> Iterable[LinkedOutput]:
    step = STEPS * package.priority
    present = package.outputs.keys() - {_NEVER_LINKED}
    chosen = [each for each in _default_outputs(package) if each in present]
    for path in _paths(package, chosen):
        yield LinkedOutput(path, step, package.install_id)
    for path in _paths(package, sorted(present - set(chosen))):
        yield LinkedOutput(path, step + next(others), package.install_id, may_collide=True)


def _chosen_of(package: Package, descriptor: Descriptor) -> Iterable[LinkedOutput]:
    if descriptor.takes_all_outputs:
        default = _default_outputs(package)
        names: Iterable[str] = (*default, *sorted(package.outputs.keys() - set(default)))
    elif descriptor.outputs is not None:
        names = descriptor.outputs
    else:
        names = _default_outputs(package)
    for place, path in enumerate(_paths(package, names)):
        yield LinkedOutput(path, STEPS * package.priority + place, package.install_id)


def _default_outputs(package: Package) -> tuple[str, ...]:
    """Return the outputs to install: as locked, else all, which is what a bare flake means."""
    if package.outputs_to_install is not None:
        return package.outputs_to_install
    return tuple(sorted(package.outputs.keys() - {_NEVER_LINKED}))


def _paths(package: Package, names: Iterable[str]) -> Iterable[StorePath]:
    """Return the paths of the named outputs, each path once."""
    paths: dict[StorePath, None] = {}
    for name in names:
        if name not in package.outputs:
            raise errors.EnvironmentUnsuitable(
                f"the package {package.install_id} has no output {name!a}, only "
                f"{_listed(sorted(package.outputs))}: correct its outputs in the manifest"
            )
        paths[package.outputs[name]] = None
    return paths


def _listed(names: Iterable[str]) -> str:
    """Return `a, b and 3 more` of many names."""
    every = list(names)
    shown = ", ".join(every[:_SHOWN_NAMES])
    return f"{shown} and {len(every) - _SHOWN_NAMES} more" if len(every) > _SHOWN_NAMES else shown
