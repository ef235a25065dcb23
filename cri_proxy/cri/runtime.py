"""The proxy's own queries of the runtime: version, status, images, containers and pods.

Each query is one call with its own deadline. If it is made for a call of kubelet and that call is
cancelled, so is the query. Failures are raised as one of our errors, with the runtime's status as
`__cause__` (grpc.aio.AioRpcError). Kubelet's calls do not pass here: the relay forwards them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods

ANSWER_SECONDS: Final = 10.0

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The container runtime behind a channel; `within` is in seconds.

    Every method raises SourceUnreachable if the runtime fails or does not answer, RequestInvalid if
    it does not serve CRI v1, and NotFound, AccessDenied or NodeExhausted if that is its status.
    """

    _channel: grpc.aio.Channel

    async def version(self, *, within: float = ANSWER_SECONDS) -> api_pb2.VersionResponse:
        """Return the runtime's name and versions."""
        request = api_pb2.VersionRequest(version="v1")
        return await self._ask(request, api_pb2.VersionResponse, within)

    async def status(
        self, *, verbose: bool = False, within: float = ANSWER_SECONDS
    ) -> api_pb2.StatusResponse:
        """Return conditions, handlers and features; `verbose` adds the runtime's own `info`."""
        request = api_pb2.StatusRequest(verbose=verbose)
        return await self._ask(request, api_pb2.StatusResponse, within)

    async def image_status(
        self, image: api_pb2.ImageSpec, *, verbose: bool = False
    ) -> api_pb2.ImageStatusResponse:
        """Return the status of an image; `image` is unset if the runtime does not have it.

        `verbose` adds `info`, in which containerd puts the image's configuration as JSON.
        """
        request = api_pb2.ImageStatusRequest(image=image, verbose=verbose)
        return await self._ask(request, api_pb2.ImageStatusResponse)

    async def containers(self) -> list[api_pb2.Container]:
        """Return all containers of all pods, including those that have exited."""
        request, kind = api_pb2.ListContainersRequest(), api_pb2.ListContainersResponse
        return list((await self._ask(request, kind)).containers)

    async def sandboxes(self) -> list[api_pb2.PodSandbox]:
        """Return the sandboxes of all pods, including those that have ended."""
        request, kind = api_pb2.ListPodSandboxRequest(), api_pb2.ListPodSandboxResponse
        return list((await self._ask(request, kind)).items)

    async def container_status(self, container_id: str) -> api_pb2.ContainerStatusResponse:
        """Return the status of a container, given its id or an unambiguous prefix of it."""
        request = api_pb2.ContainerStatusRequest(container_id=container_id)
        return await self._ask(request, api_pb2.ContainerStatusResponse)

    async def _ask(
        self, request: Message, kind: type[_Response], within: float = ANSWER_SECONDS
    ) -> _Response:
        name = kind.DESCRIPTOR.name.removesuffix("Response")
        call = self._channel.unary_unary(methods.path_of(name), None, None)
        try:
            payload = await call(request.SerializeToString(), timeout=within)
        except grpc.aio.AioRpcError as failure:
            raise _error_of(name, failure) from failure
        try:
            return kind.FromString(payload)
        except DecodeError as failure:
            raise errors.ContentDamaged(
                f"the runtime's response to {name} is not a CRI v1 message: check its version"
            ) from failure


def _error_of(name: str, failure: grpc.aio.AioRpcError) -> errors.CriProxyError:
    code = failure.code()
    said = f"the runtime answered {name} with {code.name} ({failure.details() or 'no details'})"
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.RequestInvalid(f"{said}: set runtime.endpoint to a CRI v1 socket")
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(f"{said}: check that it still exists")
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return errors.AccessDenied(f"{said}: check the permissions of its socket")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.NodeExhausted(f"{said}: free the resource that it lacks")
        case _:
            return errors.SourceUnreachable(
                f"{said}: check that it is running, that runtime.endpoint is its socket, and that "
                "cri-proxy runs as root"
            )
