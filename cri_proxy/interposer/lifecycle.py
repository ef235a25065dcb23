"""Interceptors of the calls that environments change, named as the CRI's methods.

    RunPodSandbox    starts to realize the environments that the pod will need, in parallel with
                     the sandbox; replaces a mapped runtime handler by the runtime's own
    CreateContainer  waits for the environment, adds it to the container
    Exec, ExecSync   run inside the environment that the container was created with

A call for a pod without annotations is forwarded as the bytes received. So is one that cannot be
decoded, unless its bytes contain the key of our annotation: then it is refused, because a pod that
asks for an environment never runs without it. No call of the runtime is retried here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
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
_BEGUN_AT_ONCE: Final = 16  # a pod may name thousands; the rest begin with their containers
# The pod's shared memory: in every container, and writable even if the root file system is not.
_KEEP: Final = "/dev/shm/.flox-activation-{}"  # noqa: S108

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class Policy:
    """The node's settings for pods.

    `margin_seconds` of a call's deadline are reserved for the runtime's own work; `token_file` has
    the token for pods without one.
    """

    handlers: Handlers
    margin_seconds: float
    kubelet_root: Path
    token_file: Path | None = None

    @property
    def tokens(self) -> tokens.Tokens:
        """The tokens of pods."""
        return tokens.Tokens(self.kubelet_root, self.token_file)


@dataclass(frozen=True, slots=True)
class RunPodSandbox:
    """Starts to realize the pod's environments and maps its runtime handler."""

    _realizer: Realizer
    _policy: Policy
    _unknown: notices.UnknownAnnotations = field(default_factory=notices.UnknownAnnotations)

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the sandbox while its environments are realized."""
        request = decode(api_pb2.RunPodSandboxRequest, payload)
        if request is None:
            return await call.forward(payload)
        self._unknown.report(request.config)
        wanted = selection.of_annotations(request.config.annotations)
        handler = self._policy.handlers.real(request.runtime_handler)
        if wanted is None:
            if handler is not None:
                raise handlers.without_environment(request.runtime_handler, request.config)
            return await call.forward(payload)
        # Failures are not reported here but by CreateContainer.
        token = self._policy.tokens.of_pod(request.config.metadata.uid)
        for reference, has_shell in wanted.realizations[:_BEGUN_AT_ONCE]:
            self._realizer.begin(reference, token=token, mode=wanted.mode, has_shell=has_shell)
        if handler is not None:
            request.runtime_handler = handler
            payload = request.SerializeToString()
        return await call.forward(payload)


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Adds the environment to a container, or refuses the container."""

    _realizer: Realizer
    _images: imageconfigs.ImageConfigs
    _kept: generations.KeptGenerations
    _mutability: Mutability
    _policy: Policy
    _unsupported: notices.UnsupportedParts = field(default_factory=notices.UnsupportedParts)

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the container with its environment, or unchanged if it asks for none."""
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
        for _ in range(_TRIES):
            environment = await self._environment(request, wanted, asked, call)
            lease = await holding.environment(environment.store.parent)
            if lease is not None:
                break
        else:
            raise _removed(environment)
        async with AsyncExitStack() as stack:
            # Held until the runtime has answered; then its list of containers has the environment.
            stack.callback(lease.release)
            await asyncio.to_thread(leases.note_start, environment.store.parent)
            self._unsupported.report(environment)
            image = await self._images.config_of(request.config.image)
            writable = None
            if wanted.nix_mutable:
                creating = self._mutability.create(environment.store)
                writable = await stack.enter_async_context(creating)
            adjustment.apply(
                request.config,
                environment,
                image,
                wanted,
                keep=_KEEP.format(secrets.token_hex(8)),
                writable=writable,
            )
            # At the last moment: the runtime would create a missing view as an empty directory.
            if not environment.is_in_place:
                raise _removed(environment)
            response = await call.forward(request.SerializeToString())
        self._kept.remember(
            request.sandbox_config.metadata.uid,
            request.pod_sandbox_id,
            asked,
            wanted.mode,
            generations.KeptGeneration(environment.identity, environment.reference),
        )
        return response

    async def _environment(
        self,
        request: api_pb2.CreateContainerRequest,
        wanted: selection.Selection,
        asked: Reference,
        call: Call,
    ) -> Environment:
        """Return the environment for the container, within the call's deadline.

        A pod keeps what it was given before, even if its token is no longer valid.
        """
        uid = request.sandbox_config.metadata.uid
        has_shell = wanted.leaves_exec_outside(request.config.metadata.name)
        kept = await self._kept.find(uid, request.pod_sandbox_id, asked, wanted.mode)
        if kept is not None:
            present = await self._realizer.load(kept.identity)
            if present is not None and not (has_shell and present.is_static):
                return present.resolved_as(kept.reference, present.revision, is_stale=False)
            asked = kept.reference
        token = await self._policy.tokens.of_container(request.config.mounts)
        realization = self._realizer.begin(
            asked, token=token, mode=wanted.mode, has_shell=has_shell
        )
        remaining = call.remaining()
        timeout = None if remaining is None else max(0.0, remaining - self._policy.margin_seconds)
        return await realization.wait(timeout)


class Annotations:
    """The annotations that `adjustment` added to containers when they were created."""

    def __init__(self, upstream: runtime.Runtime) -> None:
        self._runtime = upstream
        self._known = cachetools.LRUCache[str, Mapping[str, str]](_CONTAINERS_REMEMBERED)

    async def of_container(self, container_id: str) -> Mapping[str, str]:
        """Return our own annotations of a container; the runtime is asked once."""
        annotations = self._known.get(container_id)
        if annotations is None:
            response = await self._runtime.container_status(container_id)
            annotations = {
                key: value
                for key, value in response.status.annotations.items()
                if key.startswith(adjustment.ANNOTATION_PREFIX)
            }
            self._known[response.status.id] = annotations
        return annotations


@dataclass(frozen=True, slots=True)
class Exec:
    """Runs a program (Exec) or probe (ExecSync) inside its container's environment."""

    _kind: type[api_pb2.ExecRequest | api_pb2.ExecSyncRequest]
    _annotations: Annotations

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the call, with the container's activation (if any) in front of the command."""
        request = decode(self._kind, payload)
        if request is None:
            return await call.forward(payload)
        try:
            ours = await self._annotations.of_container(request.container_id)
        except errors.NotFound:
            return await call.forward(payload)  # the runtime refuses it itself
        command = adjustment.exec_command(ours, request.cmd)
        if command is not None:
            request.cmd[:] = command
            payload = request.SerializeToString()
        return await call.forward(payload)


def decode(kind: type[AnyMessage], payload: bytes) -> AnyMessage | None:
    """Return the message in `payload`, None if it cannot be decoded and does not concern us.

    Raises RequestInvalid if it cannot be decoded but contains the key of our annotation.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        if selection.is_near(payload):
            raise errors.RequestInvalid(
                f"the {kind.DESCRIPTOR.name} has the annotation {selection.ENVIRONMENT} but cannot "
                f"be decoded ({error}), so its environment cannot be added: use only UTF-8 text in "
                "annotations"
            ) from error
        return None


def _removed(environment: Environment) -> errors.SourceUnreachable:
    return errors.SourceUnreachable(
        f"environment {environment.reference} was removed from this node just before a container "
        f"started in it ({environment.store}): the next attempt realizes it again"
    )
