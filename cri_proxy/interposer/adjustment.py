"""Adjustment: what an environment adds to the configuration of a container.

One mount, the variables, an annotation or two, and the command in front of the program when the
environment has to be activated. Nothing that the pod gave is taken away or put in another order.
Pure: it changes the decoded message that it is handed and asks nobody; fields that this version
does not know stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.model import storepaths
from cri_proxy.model.environments import Environment
from cri_proxy.realizer import activation

ANNOTATION_PREFIX: Final = "cri-proxy.flox.dev/"
REFERENCE_ANNOTATION: Final = ANNOTATION_PREFIX + "environment"
IDENTITY_ANNOTATION: Final = ANNOTATION_PREFIX + "identity"
ASKED_ANNOTATION: Final = ANNOTATION_PREFIX + "asked"
MODE_ANNOTATION: Final = ANNOTATION_PREFIX + "mode"
EXEC_ANNOTATION: Final = ANNOTATION_PREFIX + "exec"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What of an image's configuration the runtime would use where the pod says nothing."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""


def apply(
    config: api_pb2.ContainerConfig,
    environment: Environment,
    image: ImageConfig,
    *,
    asked: str,
    keep: str,
    disable_metrics: bool = False,
    wrap_exec: bool = True,
) -> None:
    """Add `environment` to `config`.

    `asked` is the reference as the pod wrote it, kept beside the resolved one; `keep` is where in
    the container the activation leaves its variables for programs that are started in it later.
    Raises RequestInvalid when the pod mounts something else at /nix/store, or when there is no
    program to put the activation in front of.
    """
    command = activation.command(environment, keep)
    given = _given_variables(config, image)
    directory = config.working_dir or image.working_dir
    _mount(config, environment)
    for name, value in activation.container_variables(environment, given, directory):
        config.envs.add(key=name, value=value.encode())
    if disable_metrics:
        config.envs.add(key="FLOX_DISABLE_METRICS", value=b"true")
    if command.start:
        _wrap(config, image, command.start, environment)
    config.annotations[REFERENCE_ANNOTATION] = str(environment.reference)
    config.annotations[IDENTITY_ANNOTATION] = environment.identity
    config.annotations[ASKED_ANNOTATION] = asked
    config.annotations[MODE_ANNOTATION] = str(environment.mode)
    if command.join and wrap_exec:
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


def _mount(config: api_pb2.ContainerConfig, environment: Environment) -> None:
    """Mount the environment's view at /nix/store, read-only and private."""
    for mount in config.mounts:
        if mount.container_path.rstrip("/") == storepaths.STORE:
            raise errors.RequestInvalid(
                f"container {config.metadata.name} mounts a volume of its own at "
                f"{storepaths.STORE}, where environment {environment.reference} belongs: take the "
                "volume mount or the environment's annotation off the pod"
            )
    config.mounts.add(
        host_path=str(environment.store),
        container_path=storepaths.STORE,
        readonly=True,
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
    if not program:
        raise errors.RequestInvalid(
            f"container {config.metadata.name} has no command, and its image names none, so there "
            f"is nothing to run in environment {environment.reference}: add a command to the pod"
        )
    del config.command[:]
    del config.args[:]
    config.command.extend(start)
    config.args.extend(program)
