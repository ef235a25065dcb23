"""Runtime handlers by other names: what a RuntimeClass says, and what the runtime knows.

A RuntimeClass of handler `flox` marks pods that run in environments; no runtime has such a handler.
The settings say which of its own is meant. The name arrives with a pod's sandbox and, from kubelets
that pull images per handler, with every image; it is changed wherever it arrives:

    RunPodSandbox, RestorePod                        see `lifecycle`, `restoration`
    PullImage                                        see `pulls`
    CreateContainer                                  see `lifecycle`
    ImageStatus, RemoveImage, ListImages             here
    Status                                           here: the answer lists the other names, too

In its answers the runtime keeps to its own names (of a sandbox, of an image): they are what is
true, two names may stand for one handler, and kubelet compares them only with each other. Status is
the exception, since there kubelet looks up by a RuntimeClass's handler what the handler can do:
without an entry a pod with user namespaces or recursive read-only mounts would not be admitted.

A message without any such name goes on as the bytes that came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import selection
from cri_proxy.interposer.calls import Call

_Request = TypeVar("_Request", bound=Message)


class Handlers:
    """The settings' table of handlers, from a RuntimeClass's to the runtime's own."""

    def __init__(self, real_by_asked: Mapping[str, str]) -> None:
        self._real = dict(real_by_asked)
        self._needles = tuple(asked.encode() for asked in self._real)

    def __bool__(self) -> bool:
        return bool(self._real)

    def real(self, asked: str) -> str | None:
        """Return the runtime's own handler, empty for its default; None for names not ours."""
        return self._real.get(asked)

    def is_near(self, payload: bytes) -> bool:
        """Whether a name of ours may be in the bytes of a message; false is certain."""
        return any(needle in payload for needle in self._needles)

    def map_image(self, image: api_pb2.ImageSpec) -> bool:
        """Put the runtime's own handler into `image` if it names one of ours; tell whether."""
        real = self.real(image.runtime_handler)
        if real is None:
            return False
        image.runtime_handler = real
        return True

    def map_container(self, config: api_pb2.ContainerConfig) -> None:
        """Do so for the images of a container, its own and those that it mounts."""
        self.map_image(config.image)
        for mount in config.mounts:
            if mount.HasField("image"):
                self.map_image(mount.image)

    def add_to(self, status: api_pb2.StatusResponse) -> bool:
        """List the other names beside the runtime's own, with what those can do; tell whether.

        A runtime that lists no handlers (containerd before 2.0) gets none listed.
        """
        own = {each.name: each.SerializeToString() for each in status.runtime_handlers}
        added = {asked: own[real] for asked, real in self._real.items() if real in own}
        if not added:
            return False
        for entry in [each for each in status.runtime_handlers if each.name in added]:
            status.runtime_handlers.remove(entry)
        for asked, serialized in added.items():
            entry = status.runtime_handlers.add()
            entry.ParseFromString(serialized)
            entry.name = asked
        return True


def without_environment(handler: str, config: api_pb2.PodSandboxConfig) -> errors.RequestInvalid:
    """Return the refusal of a pod that came under one of our handlers and names no environment."""
    mistyped = next(
        (
            f" (its {key[:100]!a} means nothing)"
            for key, meant in selection.unknown(config.annotations).items()
            if meant == selection.ENVIRONMENT
        ),
        "",
    )
    return errors.RequestInvalid(
        f"runtimeClassName {handler!r} runs pods in FloxHub environments, and pod "
        f"{pod_name(config)} names none{mistyped}: add the annotation "
        f'{selection.ENVIRONMENT}: "owner/name"'
    )


def pod_name(config: api_pb2.PodSandboxConfig) -> str:
    """Return `namespace/name` of a pod."""
    return f"{config.metadata.namespace}/{config.metadata.name}"


class Status:
    """Adds our handlers to those that the runtime has."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Return the runtime's answer, as it came when there is nothing to add."""
        answer = await call.forward(payload)
        try:
            status = api_pb2.StatusResponse.FromString(answer)
        except DecodeError:
            return answer
        return status.SerializeToString() if self._handlers.add_to(status) else answer


class ImageStatus:
    """Asks about an image for the runtime's own handler."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the question."""
        request = api_pb2.ImageStatusRequest
        return await _forward(self._handlers, request, lambda each: each.image, payload, call)


class RemoveImage:
    """Removes an image of the runtime's own handler."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the removal."""
        request = api_pb2.RemoveImageRequest
        return await _forward(self._handlers, request, lambda each: each.image, payload, call)


class ListImages:
    """Lists images with a filter for the runtime's own handler."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the question."""
        request = api_pb2.ListImagesRequest
        return await _forward(
            self._handlers, request, lambda each: each.filter.image, payload, call
        )


async def _forward(
    handlers: Handlers,
    kind: type[_Request],
    image_of: Callable[[_Request], api_pb2.ImageSpec],
    payload: bytes,
    call: Call,
) -> bytes:
    """Forward a call that names an image; no environment depends on it, so it is never refused."""
    if not handlers.is_near(payload):
        return await call.forward(payload)
    try:
        request = kind.FromString(payload)
    except DecodeError:
        return await call.forward(payload)
    if not handlers.map_image(image_of(request)):
        return await call.forward(payload)
    return await call.forward(request.SerializeToString())
