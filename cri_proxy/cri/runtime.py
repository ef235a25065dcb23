"""The questions that the proxy itself has for the runtime: who are you, what have you got.

Each question is one call with a deadline of its own; when it is asked on behalf of a call of
kubelet's and that is cancelled, so is the question. What the runtime refuses is raised as one of
our errors, with the runtime's own status as `__cause__` (grpc.aio.AioRpcError). The calls of
kubelet are not carried here: the relay passes those on as bytes.
"""

from __future__ import annotations

from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods

ANSWER_SECONDS: Final = 10.0

_Answer = TypeVar("_Answer", bound=Message)


class Runtime:
    """The container runtime behind `channel`; `within` is in seconds everywhere.

    Every method raises SourceUnreachable when no answer came or the runtime failed,
    RequestInvalid when it does not speak CRI v1, and NotFound, AccessDenied or NodeExhausted when
    it says so.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def version(self, *, within: float = ANSWER_SECONDS) -> api_pb2.VersionResponse:
        """Return the runtime's name and versions."""
        request = api_pb2.VersionRequest(version="v1")
        return await self._ask("Version", request, api_pb2.VersionResponse, within)

    async def status(
        self, *, verbose: bool = False, within: float = ANSWER_SECONDS
    ) -> api_pb2.StatusResponse:
        """Return conditions, handlers and features; verbose adds the runtime's own `info`."""
        request = api_pb2.StatusRequest(verbose=verbose)
        return await self._ask("Status", request, api_pb2.StatusResponse, within)

    async def image_status(
        self, image: api_pb2.ImageSpec, *, verbose: bool = False, within: float = ANSWER_SECONDS
    ) -> api_pb2.ImageStatusResponse:
        """Return what is known of an image; without it, the answer's `image` is unset.

        Verbose adds `info`, where containerd puts the image's configuration as JSON.
        """
        request = api_pb2.ImageStatusRequest(image=image, verbose=verbose)
        return await self._ask("ImageStatus", request, api_pb2.ImageStatusResponse, within)

    async def containers(self, *, within: float = ANSWER_SECONDS) -> list[api_pb2.Container]:
        """Return all containers of all pods, those that have exited too."""
        request = api_pb2.ListContainersRequest()
        answer = await self._ask("ListContainers", request, api_pb2.ListContainersResponse, within)
        return list(answer.containers)

    async def sandboxes(self, *, within: float = ANSWER_SECONDS) -> list[api_pb2.PodSandbox]:
        """Return the sandboxes of all pods, those that have ended too."""
        request = api_pb2.ListPodSandboxRequest()
        answer = await self._ask("ListPodSandbox", request, api_pb2.ListPodSandboxResponse, within)
        return list(answer.items)

    async def container_status(
        self, container_id: str, *, within: float = ANSWER_SECONDS
    ) -> api_pb2.ContainerStatusResponse:
        """Return the state of a container, named by its id or an unambiguous beginning of it."""
        request = api_pb2.ContainerStatusRequest(container_id=container_id)
        return await self._ask("ContainerStatus", request, api_pb2.ContainerStatusResponse, within)

    async def _ask(
        self, name: str, request: Message, answer: type[_Answer], within: float
    ) -> _Answer:
        call = self._channel.unary_unary(methods.path_of(name), None, None)
        try:
            payload = await call(request.SerializeToString(), timeout=within)
        except grpc.aio.AioRpcError as failure:
            raise _error_of(name, failure) from failure
        try:
            return answer.FromString(payload)
        except DecodeError as failure:
            raise errors.ContentDamaged(
                f"the runtime's answer to {name} is no CRI v1 message: check its version"
            ) from failure


def _error_of(name: str, failure: grpc.aio.AioRpcError) -> errors.CriProxyError:
    code = failure.code()
    said = f"the runtime answered {name} with {code.name} ({failure.details() or 'no details'})"
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.RequestInvalid(f"{said}: set its socket to one that speaks CRI v1")
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(f"{said}: check that it still exists")
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return errors.AccessDenied(f"{said}: check who may use its socket")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.NodeExhausted(f"{said}: free what it lacks")
        case _:
            return errors.SourceUnreachable(
                f"{said}: check that it is running and healthy, that runtime.endpoint is its "
                "socket, and that cri-proxy runs as root"
            )
