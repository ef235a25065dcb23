"""What an environment adds to the configuration of a container.

These are mounts, variables, annotations, and a command in front of the program if the environment
has to be activated. Nothing that the pod specifies is removed or reordered. Pure: it changes only
the decoded message that it is given; unknown fields are preserved.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer.selection import NIX_MUTABLE, Selection
from cri_proxy.model import storepaths
from cri_proxy.model.environments import Environment
from cri_proxy.realizer import activation
from cri_proxy.telemetry import spans

ANNOTATION_PREFIX: Final = "cri-proxy.flox.dev/"
REFERENCE_ANNOTATION: Final = ANNOTATION_PREFIX + "environment"
IDENTITY_ANNOTATION: Final = ANNOTATION_PREFIX + "identity"
ASKED_ANNOTATION: Final = ANNOTATION_PREFIX + "asked"
MODE_ANNOTATION: Final = ANNOTATION_PREFIX + "mode"
EXEC_ANNOTATION: Final = ANNOTATION_PREFIX + "exec"
MUTABLE_ANNOTATION: Final = ANNOTATION_PREFIX + "mutable"
_NIX: Final = "/nix"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What the runtime uses of an image where the pod specifies nothing; empty if unknown."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Writable:
    """A writable /nix for one container, with the token that identifies it for removal."""

    token: str
    store: Path
    rest: Path


@spans.of_function("interposer.rewrite")
def apply(
    config: api_pb2.ContainerConfig,
    environment: Environment,
    image: ImageConfig,
    selection: Selection,
    *,
    keep: str,
    writable: Writable | None = None,
) -> None:
    """Add `environment` to `config`, as the pod's `selection` asks for.

    `keep` is where in the container the activation leaves its variables for programs started later.
    If exec runs outside of the environment, only the main program gets the variables, from the
    activation, so the environment must have been realized with a shell. Raises RequestInvalid if
    the pod mounts something else at /nix/store, or if there is no program to activate for.
    """
    name = config.metadata.name
    given = _given_variables(config, image)
    directory = config.working_dir or image.working_dir
    variables = activation.container_variables(environment, given, directory)
    if selection.disable_metrics:
        variables = (*variables, ("FLOX_DISABLE_METRICS", "true"))
    if selection.leaves_exec_outside(name):
        command = activation.command_alone(environment, variables)
    else:
        command = activation.command(environment, keep)
        for key, value in variables:
            config.envs.add(key=key, value=value.encode())
    if command.start:
        _wrap(config, image, command.start, environment)
    _mount(config, environment, writable)
    config.annotations[REFERENCE_ANNOTATION] = str(environment.reference)
    config.annotations[IDENTITY_ANNOTATION] = environment.identity
    config.annotations[ASKED_ANNOTATION] = str(selection.of_container(name))
    config.annotations[MODE_ANNOTATION] = str(environment.mode)
    if writable is not None:
        config.annotations[MUTABLE_ANNOTATION] = writable.token
    if command.join:
        config.annotations[EXEC_ANNOTATION] = json.dumps(command.join)


def exec_command(annotations: Mapping[str, str], argv: Sequence[str]) -> list[str] | None:
    """Return the command for `argv` in a container with these annotations, None if unchanged."""
    prefix = annotations.get(EXEC_ANNOTATION)
    return None if prefix is None else [*json.loads(prefix), *argv]


def _given_variables(config: api_pb2.ContainerConfig, image: ImageConfig) -> dict[str, str]:
    """Return the variables that the container has without us: the pod's override the image's.

    Values that are not UTF-8 cannot be part of a list such as PATH. They are left out here, and
    remain unchanged in the configuration.
    """
    given = dict(image.variables)
    for variable in config.envs:
        try:
            given[variable.key] = variable.value.decode()
        except UnicodeDecodeError:
            given.pop(variable.key, None)
    return given


def _mount(
    config: api_pb2.ContainerConfig, environment: Environment, writable: Writable | None
) -> None:
    """Mount the environment's view, or the `writable` /nix, with private propagation."""
    places = dict(environment.mounts)
    if writable is not None:
        if environment.mounted:
            raise errors.RequestInvalid(
                f"container {config.metadata.name} asks for a writable /nix, which needs store "
                "paths and environments on one file system, but this node mounts store paths "
                f"from {environment.mounted[0].parent}: remove the annotation {NIX_MUTABLE}"
            )
        places = {_NIX: writable.rest, storepaths.STORE: writable.store}
    for mount in config.mounts:
        place = posixpath.normpath(f"/{mount.container_path}").replace("//", "/")
        if place in places:
            raise errors.RequestInvalid(
                f"container {config.metadata.name} mounts a volume at {place}, where environment "
                f"{environment.reference} is mounted: remove the volume mount"
            )
    for place, host_path in places.items():
        config.mounts.add(
            host_path=str(host_path),
            container_path=place,
            readonly=writable is None,
            propagation=api_pb2.MountPropagation.PROPAGATION_PRIVATE,
        )


def _wrap(
    config: api_pb2.ContainerConfig,
    image: ImageConfig,
    start: Sequence[str],
    environment: Environment,
) -> None:
    """Put `start` in front of the program, which the image defines if the pod does not.

    The CRI's rule: a command replaces both entrypoint and cmd of the image, arguments alone replace
    only its cmd.
    """
    if config.command:
        program = [*config.command, *config.args]
    else:
        program = [*image.entrypoint, *(config.args or image.cmd)]
    if not config.command and not image.is_known:
        raise errors.RequestInvalid(
            f"container {config.metadata.name} has no command, and the runtime does not report "
            f"its image's command to run in environment {environment.reference}: add a command"
        )
    if not program:
        raise errors.RequestInvalid(
            f"container {config.metadata.name} has no command, and neither has its image, so there "
            f"is nothing to run in environment {environment.reference}: add a command"
        )
    del config.command[:]
    del config.args[:]
    config.command.extend(start)
    config.args.extend(program)
