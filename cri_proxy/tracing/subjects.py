"""Call subjects: which pod and container a traced call is about, by its request and response.

Only names, ids and the image are read. A PullImage carries registry credentials and a
CreateContainer a pod's variables, neither of which may be in a span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from cri_proxy.cri import api_pb2, methods
from cri_proxy.interposer import selection
from cri_proxy.telemetry.spans import Value
from cri_proxy.tracing.startups import Pod

RUN_SANDBOX: Final = methods.path_of("RunPodSandbox")
PULL_IMAGE: Final = methods.path_of("PullImage")
CREATE_CONTAINER: Final = methods.path_of("CreateContainer")
START_CONTAINER: Final = methods.path_of("StartContainer")
STOP_CONTAINER: Final = methods.path_of("StopContainer")
REMOVE_CONTAINER: Final = methods.path_of("RemoveContainer")
STOP_SANDBOX: Final = methods.path_of("StopPodSandbox")
REMOVE_SANDBOX: Final = methods.path_of("RemovePodSandbox")

BEGINNING: Final = frozenset((RUN_SANDBOX, PULL_IMAGE, CREATE_CONTAINER, START_CONTAINER))
"""Paths of the calls of a startup."""

ENDING: Final = frozenset((STOP_CONTAINER, REMOVE_CONTAINER, STOP_SANDBOX, REMOVE_SANDBOX))
"""Paths of the calls that stop and remove a pod."""

_WithSandbox: TypeAlias = api_pb2.StopPodSandboxRequest | api_pb2.RemovePodSandboxRequest
_WithContainer: TypeAlias = (
    api_pb2.StartContainerRequest | api_pb2.StopContainerRequest | api_pb2.RemoveContainerRequest
)
_OF_SANDBOX: Final[dict[str, type[_WithSandbox]]] = {
    STOP_SANDBOX: api_pb2.StopPodSandboxRequest,
    REMOVE_SANDBOX: api_pb2.RemovePodSandboxRequest,
}
_OF_CONTAINER: Final[dict[str, type[_WithContainer]]] = {
    START_CONTAINER: api_pb2.StartContainerRequest,
    STOP_CONTAINER: api_pb2.StopContainerRequest,
    REMOVE_CONTAINER: api_pb2.RemoveContainerRequest,
}


@dataclass(frozen=True, slots=True)
class CallSubject:
    """The subject of one call: `pod` if the message describes it, ids if it has only those.

    `attempt` is the container's, which counts its restarts.
    """

    pod: Pod | None = None
    container: str = ""
    attempt: int = 0
    image: str = ""
    container_id: str = ""
    sandbox_id: str = ""

    @property
    def attributes(self) -> dict[str, Value]:
        """The attributes of the call's spans, apart from the pod's."""
        found: dict[str, Value] = {}
        if self.container:
            found["k8s.container.name"] = self.container
            found["k8s.container.restart_count"] = self.attempt
        if self.image:
            found["container.image.name"] = self.image
        if self.container_id:
            found["container.id"] = self.container_id
        if self.sandbox_id:
            found["cri_proxy.sandbox.id"] = self.sandbox_id
        return found


def of_call(path: str, payload: bytes) -> CallSubject | None:
    """Return the subject of a traced call; None if its payload cannot be decoded."""
    try:
        if path == RUN_SANDBOX:
            return CallSubject(_pod_of(api_pb2.RunPodSandboxRequest.FromString(payload).config))
        if path == PULL_IMAGE:
            pull = api_pb2.PullImageRequest.FromString(payload)
            return CallSubject(_pod_of(pull.sandbox_config), image=pull.image.image)
        if path == CREATE_CONTAINER:
            create = api_pb2.CreateContainerRequest.FromString(payload)
            config = create.config
            return CallSubject(
                _pod_of(create.sandbox_config),
                container=config.metadata.name,
                attempt=config.metadata.attempt,
                image=config.image.user_specified_image or config.image.image,
                sandbox_id=create.pod_sandbox_id,
            )
        if path in _OF_SANDBOX:
            return CallSubject(sandbox_id=_OF_SANDBOX[path].FromString(payload).pod_sandbox_id)
        return CallSubject(container_id=_OF_CONTAINER[path].FromString(payload).container_id)
    except DecodeError:
        return None


def of_answer(path: str, payload: bytes) -> CallSubject:
    """Return what the runtime's response adds: the id of what was created."""
    try:
        if path == RUN_SANDBOX:
            answer = api_pb2.RunPodSandboxResponse.FromString(payload)
            return CallSubject(sandbox_id=answer.pod_sandbox_id)
        if path == CREATE_CONTAINER:
            made = api_pb2.CreateContainerResponse.FromString(payload)
            return CallSubject(container_id=made.container_id)
    except DecodeError:
        pass
    return CallSubject()


def _pod_of(config: api_pb2.PodSandboxConfig) -> Pod | None:
    """Return the pod of a sandbox's configuration; None if it has no uid."""
    metadata = config.metadata
    if not metadata.uid:
        return None
    return Pod(
        metadata.uid,
        metadata.attempt,
        metadata.namespace,
        metadata.name,
        is_annotated=any(key.startswith(selection.ENVIRONMENT) for key in config.annotations),
    )
