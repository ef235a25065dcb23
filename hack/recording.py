"""Record the calls that the container runtime receives, and compare two versions of the proxy.

    python -m hack.recording OUT.json [--page docs/pods.md]
    python -m hack.recording --compare BEFORE.json AFTER.json

The whole daemon runs in front of the recording runtime of the testbed. The recorder plays kubelet:
it runs every documented pod and an ordinary one, executes their probes, hooks and commands, and
removes them; then it makes every call of the CRI once more with a payload that the proxy must pass
on unchanged. The file has, in base64 and in the order of arrival:

    pods      by pod: each call that changes something in the runtime, and the distinct questions
              (ImageStatus, ContainerStatus, PodSandboxStatus) asked meanwhile, sorted
    relayed   by method: the payloads as they arrived, byte for byte

Everything runs in one fixed directory, on a new store, so that paths are the same in every
recording. What differs between two recordings of one version is replaced by zeros of the same
length: pod uids, the names of activation files and of writable stores, lease names and expiry
times. In `pods`, map entries are sorted by key, because protobuf gives them no order.

The store path of an environment, and thus every annotated container, changes with the content of
the files that are rendered into the environment.

The module depends only on the testbed and the messages, so that it also runs on an older commit:
copy it there, with `testbed/documented.py`. The pod with a writable /nix takes root.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import difflib
import json
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cri_proxy.containerd import api_pb2 as containerd_pb2
from cri_proxy.cri import api_pb2, methods
from hack.testbed import documented, environments, images, manifests
from hack.testbed.documented import Sample
from hack.testbed.fake_runtime import Context, FakeRuntime, Recorded
from hack.testbed.floxhub import FloxHub
from hack.testbed.pods import Pods
from hack.testbed.proxy import Proxy

DIRECTORY: Final = Path("/tmp/cri-proxy-recording")
_PLAIN: Final = Sample(
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain", "annotations": {"example.com/owner": "another team"}},
        "spec": {
            "initContainers": [{"name": "first", "image": images.BUSYBOX, "command": ["true"]}],
            "containers": [
                {
                    "name": "main",
                    "image": images.BUSYBOX,
                    "args": ["sleep", "600"],
                    "env": [{"name": "FLOX_ENV", "value": "the pod's own"}],
                    "readinessProbe": {"exec": {"command": ["true"]}},
                }
            ],
        },
    },
    (("kubectl exec plain -- sh -c 'echo $0'", ""),),
)
_QUESTIONS: Final = tuple(
    methods.path_of(name) for name in ("ImageStatus", "ContainerStatus", "PodSandboxStatus")
)
_CONTAINERD_REQUESTS: Final[Mapping[str, type[Message]]] = {
    "/containerd.services.leases.v1.Leases/Create": containerd_pb2.CreateLeaseRequest,
    "/containerd.services.leases.v1.Leases/Delete": containerd_pb2.DeleteLeaseRequest,
    "/containerd.services.content.v1.Content/Write": containerd_pb2.WriteContentRequest,
    "/containerd.services.images.v1.Images/Create": containerd_pb2.CreateImageRequest,
}
_IMAGE_CREATED: Final = "/containerd.services.images.v1.Images/Create"
_UNKNOWN_METHOD: Final = "/runtime.v9.RuntimeService/FutureMethod"
_VARIABLE: Final = (
    re.compile(rb"(?<=/\.flox-activation-)[0-9a-f]{16}"),
    re.compile(rb"(?<=cri-proxy-)[0-9a-f]{16}"),
    re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
)
_WRITABLE: Final = re.compile(rb"/mutable/([0-9a-f]{32})/")
_BUSYBOX_CONFIG: Final = json.dumps(
    {"imageSpec": {"config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]}}}
)

Recording = dict[str, dict[str, list[dict[str, str]]]]
"""Section → pod, its questions, or method → calls, each with its `path` and `payload`."""
_Request = TypeVar("_Request", bound=Message)


def main() -> int:
    """Write a recording, or compare two; return 1 when they differ."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.recording", description="Record what the container runtime receives."
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.json")
    parser.add_argument("--page", type=Path, default=documented.PAGE, help="the documented pods")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE.json", "AFTER.json"))
    arguments = parser.parse_args()
    if arguments.compare is not None:
        before, after = (json.loads(each.read_text()) for each in arguments.compare)
        found = list(differences(before, after))
        print("\n".join(found) or f"the same: {_count(before)} payloads")
        return 1 if found else 0
    if arguments.out is None:
        parser.error("name the file to write, or two files to --compare")
    recording = asyncio.run(record([*documented.samples(arguments.page), _PLAIN]))
    arguments.out.write_text(json.dumps(recording, indent=1) + "\n")
    print(f"{arguments.out}: {_count(recording)} payloads")
    return 0


async def record(samples: list[Sample], directory: Path = DIRECTORY) -> Recording:
    """Return the calls that the runtime receives while these pods run; `directory` is made."""
    with _made(directory), ExitStack() as stack:
        async with FakeRuntime(directory / "runtime.sock") as runtime:
            _Containers(runtime)
            published = environments.published(directory / "cache")
            hub = stack.enter_context(FloxHub(directory / "hub"))
            documented.push(hub, published)
            proxy = Proxy(
                directory / "proxy",
                runtime.socket,
                {
                    "floxhub": {"url": hub.url, "git_url": hub.git_url, "remember_seconds": 0},
                    "store": {
                        "caches": [published.publisher.url],
                        "public_keys": [published.publisher.public_key],
                    },
                    "activation": {"shell": str(published.bash.path)},
                },
                kubelet_root=directory / "node" / "kubelet",
            )
            return await asyncio.to_thread(_record, runtime, proxy, directory / "node", samples)


def differences(before: Recording, after: Recording) -> Iterator[str]:
    """Yield what differs between two recordings, a few lines each."""
    for section in sorted(before.keys() | after.keys()):
        old, new = before.get(section, {}), after.get(section, {})
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                yield f"{section} / {name}: only in {'BEFORE' if name in old else 'AFTER'}"
            elif old[name] != new[name]:
                yield f"{section} / {name}:"
                lines = [
                    [line for each in calls for line in _text_of(each).splitlines()]
                    for calls in (old[name], new[name])
                ]
                yield from difflib.unified_diff(lines[0], lines[1], "BEFORE", "AFTER", lineterm="")


def normalized(path: str, payload: bytes, uids: Mapping[bytes, bytes]) -> bytes:
    """Return a payload with sorted maps, and zeros in place of values that always differ."""
    kind = methods.ALL[path].request if path in methods.ALL else _CONTAINERD_REQUESTS.get(path)
    if kind is not None:
        payload = kind.FromString(payload).SerializeToString(deterministic=True)
    for uid, fixed in uids.items():
        payload = payload.replace(uid, fixed)
    for token in _WRITABLE.findall(payload):
        payload = payload.replace(token, b"0" * len(token))
    for pattern in _VARIABLE:
        payload = pattern.sub(lambda match: b"0" * len(match.group()), payload)
    return payload


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Make a directory, and remove it afterwards."""
    try:
        directory.mkdir()
    except FileExistsError:
        sys.exit(f"{directory} exists: wait for the other recording, or delete the directory")
    try:
        yield
    finally:
        shutil.rmtree(directory)


def _record(
    runtime: FakeRuntime, proxy: Proxy, directory: Path, samples: list[Sample]
) -> Recording:
    with proxy, Pods(proxy.socket, directory=directory) as pods:
        recorded: dict[str, list[dict[str, str]]] = {}
        for number, sample in enumerate(samples, 1):
            first = len(runtime.calls)
            uid = _run(pods, sample)
            uids = {uid.encode(): f"00000000-0000-0000-0000-{number:012}".encode()}
            calls = list(_received(runtime.calls[first:], uids))
            name = sample.manifest["metadata"]["name"]
            questions = [each for each in calls if each["path"] in _QUESTIONS]
            recorded[name] = [each for each in calls if not _is_reading(each["path"])]
            recorded[f"{name}, questions"] = [
                {"path": path, "payload": payload}
                for path, payload in sorted({(each["path"], each["payload"]) for each in questions})
            ]
        return {"pods": recorded, "relayed": dict(_relayed(runtime, proxy.socket))}


def _run(pods: Pods, sample: Sample) -> str:
    """Run a pod and the commands of the page, remove it, and return its uid."""
    running = manifests.run(pods, sample.manifest, documented.SECRETS)
    for container, place in documented.handlers(sample.manifest):
        running.execute(container, place)
    for command, _ in sample.commands:
        _, verb, _, *rest = shlex.split(command)
        if verb == "exec":
            running.main.exec_sync(rest[1:], timeout_seconds=60)
    for each in running.containers.values():
        request = api_pb2.ExecRequest(container_id=each.id, cmd=["sh"], stdout=True)
        pods.client.call("Exec", request, api_pb2.ExecResponse)
        each.remove()
    running.pod.remove()
    return running.pod.uid


def _relayed(runtime: FakeRuntime, socket: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Call every method with an unknown field, and CreateContainer with an invalid message."""
    create = methods.path_of("CreateContainer")
    payloads = {
        path: _field(1000, f"to {path}".encode()) for path in (*methods.ALL, _UNKNOWN_METHOD)
    }
    # The same field twice, a submessage in two parts, and fields in descending order.
    name = _field(1, _field(1, b"main"))
    untidy = _field(1000, b"untidy") + _field(2, name) + _field(1, b"old") + _field(1, b"sandbox-1")
    calls = [*payloads.items(), (create, untidy), (create, b"\x0a\xffnot a message")]
    channel = grpc.insecure_channel(
        f"unix://{socket}", options=(("grpc.default_authority", "localhost"),)
    )
    with channel:
        for number, (path, payload) in enumerate(calls):
            first = len(runtime.calls)
            try:
                list(channel.unary_stream(path, None, None)(payload, timeout=60))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            yield (
                f"{number:02} {path}",
                [
                    {"path": path, "payload": base64.b64encode(received).decode()}
                    for call in runtime.calls[first:]
                    for received in call.payloads
                    # The daemon makes calls of its own at any time, but not with such payloads.
                    if call.path == path and received == payload
                ],
            )


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return b"".join(_varint(each) for each in (number << 3 | 2, len(content))) + content


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first; all but the last have bit 8."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _received(calls: list[Recorded], uids: Mapping[bytes, bytes]) -> Iterator[dict[str, str]]:
    for call in calls:
        for payload in call.payloads:
            data = base64.b64encode(normalized(call.path, payload, uids))
            yield {"path": call.path, "payload": data.decode()}


def _is_reading(path: str) -> bool:
    """Return whether a method only reads; the daemon itself calls such methods at any time."""
    name = path.rpartition("/")[2]
    return (
        name in ("Version", "Status", "ImageFsInfo", "RuntimeConfig")
        or name.startswith(("List", "Stream", "GetContainerEvents"))
        or name.endswith(("Status", "Stats"))
    )


def _text_of(call: Mapping[str, str]) -> str:
    """Return a call as text, decoded if it is one of the CRI."""
    path, payload = call["path"], base64.b64decode(call["payload"])
    kind = methods.ALL[path].request if path in methods.ALL else None
    return f"{path} {payload!r}" if kind is None else f"{path}\n{kind.FromString(payload)}"


def _count(recording: Recording) -> int:
    return sum(len(calls) for section in recording.values() for calls in section.values())


class _Containers:
    """The state that the recording runtime needs to answer as a container runtime does.

    Programs end at once, successfully. Images are known, but for the placeholder, until the proxy
    has imported it.
    """

    def __init__(self, runtime: FakeRuntime) -> None:
        self._sandboxes: dict[str, api_pb2.PodSandboxConfig] = {}
        self._containers: dict[str, api_pb2.ContainerConfig] = {}
        self._made = 0
        self._has_placeholder = False
        self._runtime = runtime
        self._on(
            "Version",
            api_pb2.VersionRequest,
            lambda _: api_pb2.VersionResponse(
                version="0.1.0",
                runtime_name="recording",
                runtime_version="1",
                runtime_api_version="v1",
            ),
        )
        self._on("Status", api_pb2.StatusRequest, lambda _: api_pb2.StatusResponse())
        self._on("RunPodSandbox", api_pb2.RunPodSandboxRequest, self._run_pod_sandbox)
        self._on("RemovePodSandbox", api_pb2.RemovePodSandboxRequest, self._remove_pod_sandbox)
        self._on("PodSandboxStatus", api_pb2.PodSandboxStatusRequest, self._pod_sandbox_status)
        self._on("ListPodSandbox", api_pb2.ListPodSandboxRequest, self._list_pod_sandbox)
        self._on("CreateContainer", api_pb2.CreateContainerRequest, self._create_container)
        self._on("RemoveContainer", api_pb2.RemoveContainerRequest, self._remove_container)
        self._on("ContainerStatus", api_pb2.ContainerStatusRequest, self._container_status)
        self._on("ListContainers", api_pb2.ListContainersRequest, self._list_containers)
        self._on("ImageStatus", api_pb2.ImageStatusRequest, self._image_status)
        for method in ("StartContainer", "StopContainer", "StopPodSandbox", "ExecSync", "Exec"):
            runtime.answer(methods.path_of(method), b"")
        self._serve(_IMAGE_CREATED, self._import_image)

    def _on(
        self,
        method: str,
        kind: type[_Request],
        answer: Callable[[_Request], Message | None],
    ) -> None:
        """Answer a method; None is NOT_FOUND."""
        self._serve(methods.path_of(method), lambda payload: answer(_decoded(kind, payload)))

    def _serve(self, path: str, answer: Callable[[bytes], Message | None]) -> None:
        async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
            async for payload in payloads:
                message = answer(payload)
                if message is None:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "not found")
                else:
                    await context.write(message.SerializeToString())

        self._runtime.on(path, behaviour)

    def _run_pod_sandbox(self, request: api_pb2.RunPodSandboxRequest) -> Message:
        self._made += 1
        self._sandboxes[f"sandbox-{self._made}"] = request.config
        return api_pb2.RunPodSandboxResponse(pod_sandbox_id=f"sandbox-{self._made}")

    def _remove_pod_sandbox(self, request: api_pb2.RemovePodSandboxRequest) -> Message:
        self._sandboxes.pop(request.pod_sandbox_id, None)
        return api_pb2.RemovePodSandboxResponse()

    def _pod_sandbox_status(self, request: api_pb2.PodSandboxStatusRequest) -> Message | None:
        config = self._sandboxes.get(request.pod_sandbox_id)
        if config is None:
            return None
        status = api_pb2.PodSandboxStatus(id=request.pod_sandbox_id, **_common(config))
        return api_pb2.PodSandboxStatusResponse(status=status)

    def _list_pod_sandbox(self, _: api_pb2.ListPodSandboxRequest) -> Message:
        items = [
            api_pb2.PodSandbox(id=each, **_common(config))
            for each, config in self._sandboxes.items()
        ]
        return api_pb2.ListPodSandboxResponse(items=items)

    def _create_container(self, request: api_pb2.CreateContainerRequest) -> Message:
        self._made += 1
        self._containers[f"container-{self._made}"] = request.config
        return api_pb2.CreateContainerResponse(container_id=f"container-{self._made}")

    def _remove_container(self, request: api_pb2.RemoveContainerRequest) -> Message:
        self._containers.pop(request.container_id, None)
        return api_pb2.RemoveContainerResponse()

    def _container_status(self, request: api_pb2.ContainerStatusRequest) -> Message | None:
        config = self._containers.get(request.container_id)
        if config is None:
            return None
        status = api_pb2.ContainerStatus(
            id=request.container_id,
            state=api_pb2.CONTAINER_EXITED,
            image=config.image,
            **_common(config),
        )
        return api_pb2.ContainerStatusResponse(status=status)

    def _list_containers(self, _: api_pb2.ListContainersRequest) -> Message:
        containers = [
            api_pb2.Container(id=each, image=config.image, **_common(config))
            for each, config in self._containers.items()
        ]
        return api_pb2.ListContainersResponse(containers=containers)

    def _image_status(self, request: api_pb2.ImageStatusRequest) -> Message:
        name = request.image.image.removeprefix("id-of-")
        if name == images.PLACEHOLDER and not self._has_placeholder:
            return api_pb2.ImageStatusResponse()
        info = '{"imageSpec": {"config": {}}}' if name == images.PLACEHOLDER else _BUSYBOX_CONFIG
        return api_pb2.ImageStatusResponse(
            image=api_pb2.Image(id=f"id-of-{name}", repo_tags=[name]),
            info={"info": info} if request.verbose else {},
        )

    def _import_image(self, _: bytes) -> Message:
        self._has_placeholder = True
        return containerd_pb2.CreateImageRequest()


def _common(config: api_pb2.PodSandboxConfig | api_pb2.ContainerConfig) -> dict[str, Any]:
    """Return the fields that the answers repeat from the configuration."""
    return {
        "metadata": config.metadata,
        "labels": config.labels,
        "annotations": config.annotations,
    }


def _decoded(kind: type[_Request], payload: bytes) -> _Request:
    """Return the message, or an empty one for payloads that are only relayed."""
    try:
        return kind.FromString(payload)
    except DecodeError:
        return kind()


if __name__ == "__main__":
    sys.exit(main())
