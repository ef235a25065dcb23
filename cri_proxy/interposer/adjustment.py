"""Adjustment: what an environment adds to the configuration of a container.

One mount, the variables, an annotation or two, and the command in front of the program when the
environment has to be activated. Nothing that the pod gave is taken away or put in another order.
Pure: it changes the decoded message that it is handed and asks nobody; fields that this version
does not know stay where they are.
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
    """What of an image's configuration the runtime would use where the pod says nothing.

    `is_known` is false when the runtime does not tell; all the rest is empty then.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Writable:
    """A /nix that one container may write to: the node's directories for its store and the rest.

    `token` is the name under which it is removed once the container is gone.
    """

    token: str
    store: Path
    rest: Path


@spans.of_function("interposer.rewrite")
def apply(
    config: api_pb2.ContainerConfig,
    environment: Environment,
    image: ImageConfig,
    *,
    asked: str,
    keep: str,
    disable_metrics: bool = False,
    wrap_exec: bool = True,
    writable: Writable | None = None,
) -> None:
    """Add `environment` to `config`.

    `asked` is the reference as the pod wrote it, kept beside the resolved one; `keep` is where in
    the container the activation leaves its variables for programs that are started in it later.
    Without `wrap_exec` only the main program gets the variables, by way of the activation, so the
    environment must have been realized with a shell. Raises RequestInvalid when the pod mounts
    something else at /nix/store, or when there is no program to put the activation in front of.
    """
    given = _given_variables(config, image)
    directory = config.working_dir or image.working_dir
    variables = activation.container_variables(environment, given, directory)
    if disable_metrics:
        variables = (*variables, ("FLOX_DISABLE_METRICS", "true"))
    if wrap_exec:
        command = activation.command(environment, keep)
        for name, value in variables:
            config.envs.add(key=name, value=value.encode())
    else:
        command = activation.command_alone(environment, variables)
    if command.start:
        _wrap(config, image, command.start, environment)
    _mount(config, environment, writable)
    config.annotations[REFERENCE_ANNOTATION] = str(environment.reference)
    config.annotations[IDENTITY_ANNOTATION] = environment.identity
    config.annotations[ASKED_ANNOTATION] = asked
    config.annotations[MODE_ANNOTATION] = str(environment.mode)
    if writable is not None:
        config.annotations[MUTABLE_ANNOTATION] = writable.token
    if command.join:
        config.annotations[EXEC_ANNOTATION] = json.dumps(command.join)


def exec_command(annotations: Mapping[str, str], argv: Sequence[str]) -> list[str] | None:
    """Return how to run `argv` in a container with these annotations, None to leave it as it is."""
    prefix = annotations.get(EXEC_ANNOTATION)
    return None if prefix is None else [*json.loads(prefix), *argv]


def _given_variables(config: api_pb2.ContainerConfig, image: ImageConfig) -> dict[str, str]:
    """Return the variables that the container has without us, the pod's over the image's.

    Values that are not UTF-8 cannot be part of a list such as PATH; they are left out here and
    stay in the configuration as they are.
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
    """Mount the environment's view at /nix/store, private, read-only unless it is `writable`."""
    places = dict(environment.mounts)
    if writable is not None:
        if environment.mounted:
            raise errors.RequestInvalid(
                f"container {config.metadata.name} asks for a /nix that it may write to, which "
                "needs store paths and environments on one file system, and this node's are in "
                f"{environment.mounted[0].parent}: take the annotation off the pod, or have "
                "store.root on the file system of Nix's store"
            )
        places = {_NIX: writable.rest, storepaths.STORE: writable.store}
    for mount in config.mounts:
        place = posixpath.normpath(f"/{mount.container_path}").replace("//", "/")
        if place in places:
            raise errors.RequestInvalid(
                f"container {config.metadata.name} mounts a volume of its own at {place}, where "
                f"environment {environment.reference} belongs: take the volume mount or the "
                "environment's annotation off the pod"
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
    """Put `start` in front of the program, which the image names when the pod does not.

    The rule of the CRI: a command replaces the image's entrypoint and cmd both; arguments alone
    replace only its cmd.
    """
    if config.command:
        program = [*config.command, *config.args]
    else:
        program = [*image.entrypoint, *(config.args or image.cmd)]
    if not config.command and not image.is_known:
        raise errors.RequestInvalid(
            f"container {config.metadata.name} has no command, and the runtime does not tell what "
            f"its image would run in environment {environment.reference}: add a command to the pod"
        )
    if not program:
        raise errors.RequestInvalid(
            f"container {config.metadata.name} has no command, and its image names none, so there "
            f"is nothing to run in environment {environment.reference}: add a command to the pod"
        )
    del config.command[:]
    del config.args[:]
    config.command.extend(start)
    config.args.extend(program)
