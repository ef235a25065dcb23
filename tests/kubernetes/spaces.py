"""A namespace for one test, and manifests of pods."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import Failed, Kubectl, pod_is_ready, restarts
from hack.testbed import environments, images

RUNTIME_CLASS: Final = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "flox"},
    "handler": "flox",
}
START_SECONDS: Final = 120.0


class Space:
    """A namespace while the context lasts; `kubectl` acts in it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster: Final = cluster
        self.kubectl: Final[Kubectl] = cluster.kubectl.within(name)
        self.name: Final = name

    def __enter__(self) -> Self:
        self.cluster.kubectl("create", "namespace", self.name)
        self.kubectl.apply(RUNTIME_CLASS)
        self.kubectl.until(["serviceaccount", "default"], bool)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and kind is not KeyboardInterrupt:
            error.add_note(self.explanation())
        with contextlib.suppress(Failed):
            self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")

    def push(self, name: str, **parts: Any) -> int:
        """Push an environment of the tools to FloxHub's owner `test`; return its generation."""
        return push(self.cluster, name, **parts)

    def run(self, name: str, **parts: Any) -> dict[str, Any]:
        """Create a pod, and return it when it is Ready."""
        self.kubectl.apply(pod(name, **parts))
        return self.ready(name)

    def ready(self, name: str) -> dict[str, Any]:
        """Wait until a pod is Ready; return it."""
        return self.pod(name, pod_is_ready)

    def pod(self, name: str, holds: Any) -> dict[str, Any]:
        """Wait until `holds` is true for a pod; return the pod."""
        found: dict[str, Any] = self.kubectl.until(["pod", name], holds, seconds=START_SECONDS)
        return found

    def ended(self, name: str) -> dict[str, Any]:
        """Wait until a pod has Succeeded or Failed; return it."""
        return self.pod(name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"))

    def explanation(self) -> str:
        """Return an explanation: events, and the ends of the logs of proxy and kubelet."""
        proxy = "" if self.cluster.is_direct else self.cluster.proxy.log_text()[-4000:]
        kubelet = self.cluster.kubelet.log.read_text(errors="replace")[-4000:]
        return f"events:\n{self.kubectl.events()}\nproxy:\n{proxy}\nkubelet:\n{kubelet}"


def push(cluster: Cluster, name: str, **parts: Any) -> int:
    """Push an environment of the tools to FloxHub's owner `test`; return its generation."""
    lockfile = environments.lockfile(cluster.published.tools, **parts)
    return cluster.hub.push("test", name, lockfile)


def pod(
    name: str,
    *,
    environment: str | None = None,
    command: Sequence[str] = ("sleep", "2147483647"),
    annotations: Mapping[str, str] | None = None,
    containers: Sequence[Mapping[str, Any]] = (),
    container: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod of one container, of the placeholder image if it has an environment.

    `container` is merged into that one, `containers` are added, the rest is the pod's `spec`.
    """
    own = dict(annotations or {})
    if environment is not None:
        own["flox.dev/environment"] = environment
    main = {
        "name": "main",
        "image": images.BUSYBOX if environment is None else images.PLACEHOLDER,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        **(container or {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": own, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [main, *containers], **spec},
    }


def identity(pod: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return values that change when a pod is replaced or its container is restarted."""
    (status,) = pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], status["containerID"], restarts(pod)


def transitions(node: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return each condition of a node with its last transition; the node must be Ready."""
    conditions = node["status"]["conditions"]
    found = {each["type"]: (each["status"], each["lastTransitionTime"]) for each in conditions}
    assert found["Ready"][0] == "True", conditions
    return found


def deployment(name: str, replicas: int, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Deployment of pods like `template`."""
    metadata = {key: template["metadata"][key] for key in ("annotations", "labels")}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": metadata["labels"]},
            "template": {"metadata": metadata, "spec": template["spec"]},
        },
    }
