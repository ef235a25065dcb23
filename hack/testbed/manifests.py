"""Pods from YAML manifests, run on a CRI socket as kubelet would.

The fields that the tests and the documentation use are supported: volumes are created, init
containers run one after the other, then all other containers; probes and lifecycle hooks are
executed on demand. Unknown fields are refused, so that no sample contains anything untested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from hack.testbed import kubelet
from hack.testbed.pods import Container, Executed, Pod, Pods

Secrets = Mapping[str, Mapping[str, bytes]]
"""Secrets of the cluster: name → key → content."""

_UNTRIED: Final = frozenset({"restartPolicy", "terminationGracePeriodSeconds"})
_PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
_HOOKS: Final = ("postStart", "preStop")


@dataclass(slots=True)
class Running:
    """A running pod with its manifest, and its containers by name."""

    manifest: Mapping[str, Any]
    pod: Pod
    containers: dict[str, Container] = field(default_factory=dict)

    @property
    def main(self) -> Container:
        """The first of `spec.containers`."""
        return self.containers[self.manifest["spec"]["containers"][0]["name"]]

    def execute(self, container: str, place: str) -> Executed:
        """Execute a probe (`readinessProbe`) or lifecycle hook (`preStop`) of a container."""
        (written,) = (
            each for each in _containers(self.manifest["spec"]) if each["name"] == container
        )
        handler = written[place] if place in _PROBES else written["lifecycle"][place]
        argv: Sequence[str] = handler["exec"]["command"]
        return self.containers[container].exec_sync(
            argv, timeout_seconds=handler.get("timeoutSeconds", 30)
        )


def parse(text: str) -> list[dict[str, Any]]:
    """Return the pods in a YAML text, without objects of other kinds."""
    documents = [each for each in yaml.safe_load_all(text) if each]
    return [each for each in documents if each["kind"] == "Pod"]


def run(pods: Pods, manifest: Mapping[str, Any], secrets: Secrets | None = None) -> Running:
    """Run a pod: its init containers to completion (except sidecars), then all others."""
    _only(manifest, "apiVersion", "kind", "metadata", "spec")
    metadata, spec = manifest["metadata"], manifest["spec"]
    _only(metadata, "name", "annotations", "labels")
    _only(
        spec,
        *("runtimeClassName", "hostNetwork", "hostUsers", "securityContext", "volumes"),
        *("initContainers", "containers", *_UNTRIED),
    )
    volumes = {each["name"]: each for each in spec.get("volumes", ())}
    of_secrets = {name: each["secret"] for name, each in volumes.items() if "secret" in each}
    pod = pods.run_pod(
        metadata["name"],
        metadata.get("annotations"),
        host_network=spec.get("hostNetwork", False),
        user_namespace=not spec.get("hostUsers", True),
        runtime_handler=spec.get("runtimeClassName", ""),
        secrets={name: (secrets or {})[each["secretName"]] for name, each in of_secrets.items()},
    )
    places = {name: _volume_directory(pod, each) for name, each in volumes.items()}
    running = Running(manifest, pod)
    for each in spec.get("initContainers", ()):
        container = running.containers[each["name"]] = pod.run(_spec(each, spec, places))
        if each.get("restartPolicy") != "Always" and container.wait() != 0:
            raise AssertionError(f"init container {each['name']} failed: {container.logs()}")
    for each in spec["containers"]:
        running.containers[each["name"]] = pod.run(_spec(each, spec, places))
    return running


def _volume_directory(pod: Pod, volume: Mapping[str, Any]) -> Path:
    """Return the directory of a volume; a secret's exists already, others are created."""
    _only(volume, "name", "secret", "emptyDir")
    if "secret" in volume:
        return pod.files.volume(volume["name"])
    place: Path = pod.files.directory / "volumes" / "kubernetes.io~empty-dir" / volume["name"]
    place.mkdir(parents=True)
    place.chmod(0o777)
    return place


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _spec(
    container: Mapping[str, Any], pod: Mapping[str, Any], places: Mapping[str, Path]
) -> kubelet.Spec:
    """Return the specification of a container."""
    _only(
        container,
        *("name", "image", "command", "args", "env", "workingDir", "volumeMounts"),
        *("securityContext", "lifecycle", "restartPolicy", *_PROBES),
    )
    for probe in (container[each] for each in _PROBES if each in container):
        _only(probe, "exec", "timeoutSeconds", "periodSeconds", "initialDelaySeconds")
    _only(container.get("lifecycle", {}), *_HOOKS)
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    _only(
        security,
        *("runAsUser", "runAsNonRoot", "readOnlyRootFilesystem", "seccompProfile"),
        *("allowPrivilegeEscalation", "capabilities"),
    )
    if security.get("runAsNonRoot") and not security.get("runAsUser"):
        raise ValueError("the testbed supports runAsNonRoot only with runAsUser")
    dropped = security.get("capabilities", {}).get("drop", [])
    if bool(dropped) == security.get("allowPrivilegeEscalation", True) or dropped not in (
        [],
        ["ALL"],
    ):
        raise ValueError(
            "the testbed supports drop: [ALL] only with allowPrivilegeEscalation: false"
        )
    return kubelet.Spec(
        name=container["name"],
        image=container["image"],
        command=container.get("command", ()),
        args=container.get("args", ()),
        envs=[_variable(each) for each in container.get("env", ())],
        mounts=[_mount(each, places) for each in container.get("volumeMounts", ())],
        working_dir=container.get("workingDir", ""),
        user=security.get("runAsUser"),
        is_root_read_only=security.get("readOnlyRootFilesystem", False),
        has_default_seccomp=security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        drops_capabilities=bool(dropped),
    )


def _variable(variable: Mapping[str, Any]) -> tuple[str, bytes]:
    _only(variable, "name", "value")
    return variable["name"], variable["value"].encode()


def _mount(mount: Mapping[str, Any], places: Mapping[str, Path]) -> kubelet.Mount:
    """Return a volume's mount; for a subPath, kubelet mounts the directory within the volume."""
    _only(mount, "name", "mountPath", "readOnly", "subPath")
    place = places[mount["name"]]
    if "subPath" in mount:
        mode = place.stat().st_mode
        place /= mount["subPath"]
        if not place.exists():
            place.mkdir(parents=True)
            place.chmod(mode & 0o7777)  # as kubelet creates it
    return kubelet.Mount(place, mount["mountPath"], is_read_only=mount.get("readOnly", False))


def _only(mapping: Mapping[str, Any], *known: str) -> None:
    unknown = mapping.keys() - set(known)
    if unknown:
        raise ValueError(
            f"the testbed does not support manifests with {', '.join(sorted(unknown))}"
        )
