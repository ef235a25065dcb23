"""Pods on a node without kubelet: kubelet's calls, in its order, with its arguments.

`Pods` uses any CRI socket, containerd's or a proxy's. It runs pods, whose containers can be
created, started, awaited and executed in, and whose logs can be read. Each pod and container, and
`Pods` itself, is a context manager that leaves nothing in the runtime. The messages are made by
`kubelet`.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from cri_proxy.cri import api_pb2
from hack.testbed import cri, kubelet, logs, waiting

_OVERTAKEN: Final = ("ttrpc: closed", "is still running, to stop first")


@dataclass(frozen=True, slots=True)
class Executed:
    """The output and the exit code of a program executed in a container."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Pods:
    """Runs pods through one CRI socket, and finally removes those it ran."""

    def __init__(self, socket: Path, *, directory: Path, cgroup_parent: str = "") -> None:
        """Use a CRI socket, a directory for kubelet's files, and the pods' common control group."""
        self.client: Final = cri.Client(socket)
        self.directory: Final = directory
        self._cgroup_parent: Final = cgroup_parent
        self._running: Final[list[Pod]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # tries all, even if some fail
            stack.callback(self.client.close)
            for pod in self._running:
                stack.callback(pod.remove)

    def run_pod(
        self,
        name: str,
        annotations: Mapping[str, str] | None = None,
        *,
        host_network: bool = False,
        user_namespace: bool = False,
        runtime_handler: str = "",
        secrets: Mapping[str, Mapping[str, bytes]] | None = None,
    ) -> Pod:
        """Write the pod's secrets and run its sandbox; `secrets` is volume name → key → content."""
        files = kubelet.write_pod_files(
            self.directory, name, str(uuid.uuid4()), secrets=secrets or {}
        )
        config = kubelet.sandbox_config(
            files,
            name,
            annotations=annotations or {},
            is_host_networked=host_network,
            has_user_namespace=user_namespace,
            cgroup_parent=self._cgroup_parent,
        )
        reply = self.client.call(
            "RunPodSandbox",
            api_pb2.RunPodSandboxRequest(config=config, runtime_handler=runtime_handler),
            api_pb2.RunPodSandboxResponse,
            seconds=cri.SANDBOX_SECONDS,
        )
        pod = Pod(self.client, reply.pod_sandbox_id, config, files)
        self._running.append(pod)
        return pod

    def adopt(self, container: Container) -> Container:
        """Return the same container for use through this socket."""
        return Container(self.client, container.id, container.config, container.log)

    def pods(self) -> list[api_pb2.PodSandbox]:
        """Return the sandboxes that the runtime lists, including those of other clients."""
        request = api_pb2.ListPodSandboxRequest()
        reply = self.client.call("ListPodSandbox", request, api_pb2.ListPodSandboxResponse)
        return list(reply.items)


class Pod:
    """A running sandbox: its `id`, the `config` it was created with, and its files."""

    def __init__(
        self,
        client: cri.Client,
        pod_id: str,
        config: api_pb2.PodSandboxConfig,
        files: kubelet.PodFiles,
    ) -> None:
        self.id: Final = pod_id
        self.config: Final = config
        self.files: Final = files
        self._client: Final = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def uid(self) -> str:
        """The pod's uid, which the API server would have assigned."""
        return self.files.uid

    def secret_mount(self, volume: str, container_path: str) -> kubelet.Mount:
        """Return the mount of a secret volume of the pod."""
        return kubelet.Mount(self.files.volume(volume), container_path, is_read_only=True)

    def image_id(self, image: str) -> str:
        """Return the runtime's id of the image; pull it if the runtime does not have it."""
        spec = api_pb2.ImageSpec(image=image, user_specified_image=image)
        status = self._client.call(
            "ImageStatus", api_pb2.ImageStatusRequest(image=spec), api_pb2.ImageStatusResponse
        )
        if status.HasField("image"):
            return status.image.id
        return self._client.call(
            "PullImage",
            api_pb2.PullImageRequest(image=spec, sandbox_config=self.config),
            api_pb2.PullImageResponse,
            seconds=None,
        ).image_ref

    def create(self, spec: kubelet.Spec) -> Container:
        """Ensure the image as kubelet would, and create the container without starting it."""
        image_id = self.image_id(spec.image)
        kubelet.write_container_files(self.files, spec)
        config = kubelet.container_config(self.files, self.config, spec, image_id=image_id)
        reply = self._client.call(
            "CreateContainer",
            api_pb2.CreateContainerRequest(
                pod_sandbox_id=self.id, config=config, sandbox_config=self.config
            ),
            api_pb2.CreateContainerResponse,
        )
        return Container(
            self._client, reply.container_id, config, self.files.logs / config.log_path
        )

    def run(self, spec: kubelet.Spec) -> Container:
        """Create and start a container, as kubelet does for each container of a pod."""
        container = self.create(spec)
        container.start()
        return container

    def status(self) -> api_pb2.PodSandboxStatus:
        """Return the runtime's status of the sandbox."""
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=self.id)
        reply = self._client.call("PodSandboxStatus", request, api_pb2.PodSandboxStatusResponse)
        return reply.status

    def ip(self) -> str:
        """Return the pod's IP address; empty with the host's network."""
        return self.status().network.ip

    def stop(self) -> None:
        """Stop its containers and its network; the sandbox stays listed."""
        request = api_pb2.StopPodSandboxRequest(pod_sandbox_id=self.id)
        self._client.call("StopPodSandbox", request, api_pb2.StopPodSandboxResponse)

    def remove(self) -> None:
        """Stop and remove it and its containers; can be repeated."""
        request = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=self.id)

        def remove() -> None:
            self.stop()
            self._client.call("RemovePodSandbox", request, api_pb2.RemovePodSandboxResponse)

        _patiently(remove, what=f"the end of the pod {self.config.metadata.name}")


class Container:
    """A container of a pod: its `id`, the `config` as sent, and its log file."""

    def __init__(
        self, client: cri.Client, container_id: str, config: api_pb2.ContainerConfig, log: Path
    ) -> None:
        self.id: Final = container_id
        self.config: Final = config
        self.log: Final = log
        self._client: Final = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> None:
        """Start its program."""
        request = api_pb2.StartContainerRequest(container_id=self.id)
        self._client.call("StartContainer", request, api_pb2.StartContainerResponse)

    def status(self) -> api_pb2.ContainerStatus:
        """Return the runtime's status of the container."""
        request = api_pb2.ContainerStatusRequest(container_id=self.id)
        reply = self._client.call("ContainerStatus", request, api_pb2.ContainerStatusResponse)
        return reply.status

    def wait(self, *, seconds: float = waiting.DEADLINE_SECONDS) -> int:
        """Wait for the end of its program, and return the exit code."""

        def exit_code() -> tuple[int] | None:
            status = self.status()
            return (status.exit_code,) if status.state == api_pb2.CONTAINER_EXITED else None

        (code,) = waiting.until(
            exit_code,
            what=f"the container {self.config.metadata.name} to exit",
            seconds=seconds,
            explain=lambda: f"its log: {self.logs()}",
        )
        return code

    def logs(self) -> logs.Logs:
        """Return its output so far."""
        return logs.parse(self.log.read_bytes() if self.log.exists() else b"")

    def await_output(self, pattern: bytes, *, seconds: float = waiting.DEADLINE_SECONDS) -> bytes:
        """Wait for stdout to match the regular expression `pattern`, and return the match."""

        def seen() -> bytes | None:
            match = re.search(pattern, self.logs().stdout, re.MULTILINE)
            return None if match is None else match.group()

        return waiting.until(
            seen,
            what=f"{pattern!r} in the log of {self.config.metadata.name}",
            seconds=seconds,
            explain=lambda: f"it is {self.logs()}",
        )

    def termination_message(self) -> bytes:
        """Return the content of /dev/termination-log, which is located as kubelet does."""
        for mount in self.status().mounts:
            if mount.container_path == "/dev/termination-log":
                return Path(mount.host_path).read_bytes()
        raise AssertionError(f"the runtime reports no termination log of {self.id}")

    def exec_sync(self, argv: Sequence[str], *, timeout_seconds: int = 0) -> Executed:
        """Run a program in it; with a timeout of 0, wait forever."""
        reply = self._client.call(
            "ExecSync",
            api_pb2.ExecSyncRequest(container_id=self.id, cmd=argv, timeout=timeout_seconds),
            api_pb2.ExecSyncResponse,
            seconds=cri.UNARY_SECONDS + timeout_seconds if timeout_seconds else None,
        )
        return Executed(reply.exit_code, reply.stdout, reply.stderr)

    def stop(self, *, grace_seconds: int = 0) -> None:
        """Stop its program with SIGTERM, and after the grace period with SIGKILL."""
        self._client.call(
            "StopContainer",
            api_pb2.StopContainerRequest(container_id=self.id, timeout=grace_seconds),
            api_pb2.StopContainerResponse,
            seconds=cri.UNARY_SECONDS + grace_seconds,
        )

    def remove(self) -> None:
        """Stop and remove it; can be repeated."""
        request = api_pb2.RemoveContainerRequest(container_id=self.id)

        def remove() -> None:
            self.stop()
            self._client.call("RemoveContainer", request, api_pb2.RemoveContainerResponse)

        _patiently(remove, what=f"the end of the container {self.config.metadata.name}")


def _patiently(remove: Callable[[], None], *, what: str) -> None:
    """Stop and remove as kubelet does: retry after a race between containerd and the program.

    A shim may end while containerd is calling it; and after a program has ended by itself,
    containerd may fail to stop it before it has recorded the end.
    """

    def is_gone() -> bool:
        try:
            remove()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return True
            if not any(each in (error.details() or "") for each in _OVERTAKEN):
                raise
            return False
        return True

    waiting.until(is_gone, what=what)
