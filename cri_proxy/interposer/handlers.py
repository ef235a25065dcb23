"""Runtime handlers under other names: from a RuntimeClass's handler to the runtime's own.

A RuntimeClass with handler `flox` marks pods that run in environments; no runtime has a handler of
that name. The settings map it to one that the runtime has. The name arrives with a pod's sandbox
and, from kubelets that pull images per handler, with every image. It is replaced in RunPodSandbox
and CreateContainer by `lifecycle`, in PullImage by `pulls`, and in the other calls here.

Handler names in runtime responses (of a sandbox, of an image) are not translated back: two names
may map to one handler, and kubelet only compares these names with each other. Status is the
exception, because there kubelet looks up the features of a RuntimeClass's handler: without an entry
a pod with user namespaces or recursive read-only mounts would not be admitted.

A message without such a name is forwarded as the bytes received.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import selection
from cri_proxy.interposer.calls import Call, Interceptor

_Request = TypeVar("_Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Handlers:
    """The mapping of handlers in the settings, from a RuntimeClass's to the runtime's own."""

    _real: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self._real)

    def real(self, asked: str) -> str | None:
        """Return the runtime's own handler, empty for its default; None for names not mapped."""
        return self._real.get(asked)

    def is_near(self, payload: bytes) -> bool:
        """Return whether the bytes of a message may contain a mapped name; false is certain."""
        return any(name.encode() in payload for name in self._real)

    def map_image(self, image: api_pb2.ImageSpec) -> bool:
        """Replace a mapped handler in `image` by the runtime's own; return whether it had one."""
        real = self.real(image.runtime_handler)
        if real is not None:
            image.runtime_handler = real
        return real is not None

    def map_container(self, config: api_pb2.ContainerConfig) -> None:
        """Replace mapped handlers in the images of a container, its own and those it mounts."""
        self.map_image(config.image)
        for mount in config.mounts:
            if mount.HasField("image"):
                self.map_image(mount.image)

    def add_to(self, status: api_pb2.StatusResponse) -> bool:
        """List the mapped names with the features of their handlers; return whether any was."""
        own = {each.name: each.SerializeToString() for each in status.runtime_handlers}
        added = {asked: own[real] for asked, real in self._real.items() if real in own}
        for entry in [each for each in status.runtime_handlers if each.name in added]:
            status.runtime_handlers.remove(entry)
        for asked, serialized in added.items():
            entry = status.runtime_handlers.add()
            entry.ParseFromString(serialized)
            entry.name = asked
        return bool(added)


def without_environment(handler: str, config: api_pb2.PodSandboxConfig) -> errors.RequestInvalid:
    """Return the refusal of a pod that has a mapped handler but no environment."""
    mistyped = ""
    for key, meant in selection.unknown(config.annotations).items():
        if meant == selection.ENVIRONMENT and not mistyped:
            mistyped = f" (unknown annotation {key[:100]!a})"
    return errors.RequestInvalid(
        f"runtimeClassName {handler!r} runs pods in FloxHub environments, but pod "
        f"{pod_name(config)} has none{mistyped}: add the annotation "
        f'{selection.ENVIRONMENT}: "owner/name"'
    )


def pod_name(config: api_pb2.PodSandboxConfig) -> str:
    """Return `namespace/name` of a pod."""
    return f"{config.metadata.namespace}/{config.metadata.name}"


@dataclass(frozen=True, slots=True)
class Status:
    """Adds the mapped handlers to those that the runtime lists."""

    _handlers: Handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Return the runtime's response, unchanged if there is nothing to add."""
        response = await call.forward(payload)
        try:
            status = api_pb2.StatusResponse.FromString(response)
        except DecodeError:
            return response
        return status.SerializeToString() if self._handlers.add_to(status) else response


@dataclass(frozen=True, slots=True)
class ImageCall(Generic[_Request]):
    """Replaces a mapped handler in a call that names an image, such as ImageStatus."""

    _kind: type[_Request]
    _image_of: Callable[[_Request], api_pb2.ImageSpec]
    _handlers: Handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the call; no environment depends on it, so it is never refused."""
        if self._handlers.is_near(payload):
            with contextlib.suppress(DecodeError):
                request = self._kind.FromString(payload)
                if self._handlers.map_image(self._image_of(request)):
                    payload = request.SerializeToString()
        return await call.forward(payload)


def interceptors_of(handlers: Handlers) -> Mapping[str, Interceptor]:
    """Return the interceptors of this module by method name; none if no handler is mapped."""
    if not handlers:
        return {}
    listing = ImageCall(api_pb2.ListImagesRequest, lambda each: each.filter.image, handlers)
    return {
        "Status": Status(handlers),
        "ImageStatus": ImageCall(api_pb2.ImageStatusRequest, lambda each: each.image, handlers),
        "RemoveImage": ImageCall(api_pb2.RemoveImageRequest, lambda each: each.image, handlers),
        "ListImages": listing,
    }
