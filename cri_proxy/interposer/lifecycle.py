"""The calls that the proxy changes, one class each, named as the CRI names them.

    RunPodSandbox    the environments that the pod will need begin to be realized beside the
                     sandbox; a mapped runtime handler becomes the runtime's own
    CreateContainer  waits for the environment, adds it to the container
    Exec, ExecSync   run inside the environment that the container was created with

A call that concerns no annotated pod goes on as the very bytes that came. One that cannot be
decoded goes on as well, unless our annotation's key stands in its bytes: then it is refused,
because a pod that asks for an environment never runs without it. Nothing here is tried twice
against the runtime.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import cachetools
from google.protobuf.message import DecodeError, Message

from cri_proxy import errors
from cri_proxy.cri import api_pb2, runtime
from cri_proxy.interposer import (
    adjustment,
    generations,
    handlers,
    imageconfigs,
    notices,
    selection,
    tokens,
)
from cri_proxy.interposer.calls import Call
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.interposer.mutability import Mutability
from cri_proxy.model.environments import Environment
from cri_proxy.model.references import Reference
from cri_proxy.realizer import holding
from cri_proxy.realizer.realizer import Realizer
from cri_proxy.store.disk import leases
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_CONTAINERS_REMEMBERED: Final = 8192
_TRIES: Final = 3
_BEGUN_AT_ONCE: Final = 16  # a pod may name thousands; the rest begin when their containers come
# Shared memory of the pod: in every container, writable also when the root file system is not.
_KEEP: Final = "/dev/shm/.flox-activation-{}"  # noqa: S108

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the node's settings say about pods.

    `margin_seconds` is kept back from a call's deadline for the runtime's own work; `token_file`
    holds the token for pods that bring none.
    """

    handlers: Handlers
    margin_seconds: float
    kubelet_root: Path
    token_file: Path | None = None


class RunPodSandbox:
    """Begins the pod's environments and maps its runtime handler."""

    def __init__(self, realizer: Realizer, policy: Policy) -> None:
        self._realizer = realizer
        self._policy = policy
        self._tokens = tokens.Tokens(policy.kubelet_root, policy.token_file)
        self._unknown = notices.Unknown()

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the sandbox; its environments are realized meanwhile."""
        request = decode(api_pb2.RunPodSandboxRequest, payload)
        if request is None:
            return await call.forward(payload)
        self._unknown.tell(request.config)
        wanted = selection.of_annotations(request.config.annotations)
        handler = self._policy.handlers.real(request.runtime_handler)
        if wanted is None:
            if handler is not None:
                raise handlers.without_environment(request.runtime_handler, request.config)
            return await call.forward(payload)
        self._begin(request.config, wanted)
        if handler is None:
            return await call.forward(payload)
        request.runtime_handler = handler
        return await call.forward(request.SerializeToString())

    def _begin(self, config: api_pb2.PodSandboxConfig, wanted: selection.Selection) -> None:
        """Start realizing what the pod will need; CreateContainer reports what comes of it."""
        token = self._tokens.of_pod(config.metadata.uid)
        for reference, has_shell in wanted.realizations[:_BEGUN_AT_ONCE]:
            self._realizer.begin(reference, token=token, mode=wanted.mode, has_shell=has_shell)


class CreateContainer:
    """Adds the environment to a container, or refuses the container."""

    def __init__(
        self,
        realizer: Realizer,
        image_configs: imageconfigs.ImageConfigs,
        pod_pins: generations.KeptGenerations,
        mutability: Mutability,
        policy: Policy,
    ) -> None:
        self._realizer = realizer
        self._images = image_configs
        self._pins = pod_pins
        self._mutability = mutability
        self._notices = notices.Notices()
        self._policy = policy
        self._tokens = tokens.Tokens(policy.kubelet_root, policy.token_file)

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the container with its environment, or as it came when it asks for none."""
        if not selection.is_near(payload):
            return await call.forward(payload)
        request = decode(api_pb2.CreateContainerRequest, payload)
        if request is None:
            return await call.forward(payload)
        wanted = selection.of_annotations(request.sandbox_config.annotations)
        asked = None if wanted is None else wanted.of_container(request.config.metadata.name)
        if wanted is None or asked is None:
            return await call.forward(payload)
        self._policy.handlers.map_container(request.config)
        environment, lease = await self._leased(request, wanted, asked, call)
        async with AsyncExitStack() as stack:
            # Until the runtime has answered; then its list of containers has the environment.
            stack.callback(lease.release)
            await asyncio.to_thread(leases.note_start, environment.store.parent)
            self._notices.give(environment)
            image = await self._images.config_of(request.config.image)
            writable = None
            if wanted.nix_mutable:
                lent = self._mutability.lend(environment.store)
                writable = await stack.enter_async_context(lent)
            adjustment.apply(
                request.config,
                environment,
                image,
                asked=str(asked),
                keep=_KEEP.format(secrets.token_hex(8)),
                disable_metrics=wanted.disable_metrics,
                wrap_exec=not wanted.leaves_exec_outside(request.config.metadata.name),
                writable=writable,
            )
            _ensure_in_place(environment)
            answer = await call.forward(request.SerializeToString())
        self._pins.remember(
            request.sandbox_config.metadata.uid,
            request.pod_sandbox_id,
            asked,
            wanted.mode,
            generations.KeptGeneration(environment.identity, environment.reference),
        )
        return answer

    async def _leased(
        self,
        request: api_pb2.CreateContainerRequest,
        wanted: selection.Selection,
        asked: Reference,
        call: Call,
    ) -> tuple[Environment, leases.Lease]:
        """Return the environment for the container, held against the collection of garbage."""
        for _ in range(_TRIES):
            environment = await self._environment(request, wanted, asked, call)
            lease = await holding.environment(environment.store.parent)
            if lease is not None:
                return environment, lease
        raise _removed(environment)

    async def _environment(
        self,
        request: api_pb2.CreateContainerRequest,
        wanted: selection.Selection,
        asked: Reference,
        call: Call,
    ) -> Environment:
        """Return the environment for the container, waiting as long as the call's deadline lets.

        What the pod was given before it keeps, whatever has become of its token meanwhile.
        """
        uid = request.sandbox_config.metadata.uid
        has_shell = wanted.leaves_exec_outside(request.config.metadata.name)
        pin = await self._pins.find(uid, request.pod_sandbox_id, asked, wanted.mode)
        if pin is not None:
            present = await self._realizer.load(pin.identity)
            if present is not None and not (has_shell and present.is_static):
                return present.resolved_as(pin.reference, present.revision, is_stale=False)
            asked = pin.reference
        token = await self._tokens.of_container(request.config.mounts)
        realization = self._realizer.begin(
            asked, token=token, mode=wanted.mode, has_shell=has_shell
        )
        remaining = call.remaining()
        timeout = None if remaining is None else max(0.0, remaining - self._policy.margin_seconds)
        return await realization.wait(timeout)


class Annotations:
    """What was noted in containers' annotations when they were created; see `adjustment`."""

    def __init__(self, upstream: runtime.Runtime) -> None:
        self._runtime = upstream
        self._known: cachetools.LRUCache[str, Mapping[str, str]] = cachetools.LRUCache(
            _CONTAINERS_REMEMBERED
        )

    async def of_container(self, container_id: str) -> Mapping[str, str]:
        """Return our own annotations of a container, asked of the runtime once."""
        notes = self._known.get(container_id)
        if notes is None:
            answer = await self._runtime.container_status(container_id)
            notes = {
                key: value
                for key, value in answer.status.annotations.items()
                if key.startswith(adjustment.ANNOTATION_PREFIX)
            }
            self._known[answer.status.id] = notes
        return notes


async def _forward_inside(
    request: api_pb2.ExecRequest | api_pb2.ExecSyncRequest | None,
    annotations: Annotations,
    payload: bytes,
    call: Call,
) -> bytes:
    """Forward an exec with its container's activation in front, or as it came if it has none."""
    if request is None:
        return await call.forward(payload)
    try:
        notes = await annotations.of_container(request.container_id)
    except errors.NotFound:
        return await call.forward(payload)  # the runtime says it in its own words
    command = adjustment.exec_command(notes, request.cmd)
    if command is None:
        return await call.forward(payload)
    request.cmd[:] = command
    return await call.forward(request.SerializeToString())


class Exec:
    """Prepares a streaming exec inside the container's environment."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the exec, inside the container's environment if it has one."""
        request = decode(api_pb2.ExecRequest, payload)
        return await _forward_inside(request, self._annotations, payload, call)


class ExecSync:
    """Runs a program, such as a probe, inside the container's environment."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the exec, inside the container's environment if it has one."""
        request = decode(api_pb2.ExecSyncRequest, payload)
        return await _forward_inside(request, self._annotations, payload, call)


def decode(kind: type[AnyMessage], payload: bytes) -> AnyMessage | None:
    """Return the message in `payload`, None when it cannot be decoded and none of ours is in it.

    Raises RequestInvalid when it cannot be decoded and our annotation's key is somewhere within.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        if selection.is_near(payload):
            raise errors.RequestInvalid(
                f"the {kind.DESCRIPTOR.name} carries the annotation {selection.ENVIRONMENT} and "
                f"cannot be decoded ({error}), so its environment cannot be added: annotations "
                "must be UTF-8 text"
            ) from error
        return None


def _ensure_in_place(environment: Environment) -> None:
    """Make sure of the view at the last moment: the runtime would create a missing one, empty."""
    if not environment.is_in_place:
        raise _removed(environment)


def _removed(environment: Environment) -> errors.SourceUnreachable:
    return errors.SourceUnreachable(
        f"environment {environment.reference} was removed from this node while a container "
        f"was about to start in it ({environment.store}): the next try realizes it anew"
    )
