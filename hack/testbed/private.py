"""Pods with a FloxHub token in a Secret, mounted at the documented place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from cri_proxy.interposer.tokens import FILE, MOUNT
from hack.testbed import images, kubelet
from hack.testbed.floxhub import FloxHub
from hack.testbed.pods import Container, Pod, Pods

VOLUME = "floxhub"
_numbers = itertools.count()


def run_pod(pods: Pods, environment: str, token: str | bytes | None, *, key: str = FILE) -> Pod:
    """Run a pod that has the token in a Secret, or has no token."""
    content = token.encode() if isinstance(token, str) else token
    return pods.run_pod(
        f"private-{next(_numbers)}",
        {"flox.dev/environment": environment},
        secrets={} if content is None else {VOLUME: {key: content}},
    )


def create(pod: Pod, *command: str, attempt: int = 0, place: str = MOUNT) -> Container:
    """Create a container of the empty image that mounts the pod's Secret, if it has one."""
    mounts = [pod.secret_mount(VOLUME, place)] if pod.files.volume(VOLUME).exists() else []
    return pod.create(
        kubelet.Spec(image=images.EMPTY, command=command, mounts=mounts, attempt=attempt)
    )


def output(pod: Pod, *command: str, attempt: int = 0, place: str = MOUNT) -> bytes:
    """Run a program in the pod, which must succeed, and return its output."""
    container = create(pod, *command, attempt=attempt, place=place)
    container.start()
    assert container.wait() == 0, container.logs()
    return container.logs().stdout


def refusal(pod: Pod, code: grpc.StatusCode, *words: str) -> str:
    """Assert that the container is refused with `code` and a message with `words`; return that."""
    try:
        create(pod, "true")
    except grpc.RpcError as error:
        refused = error
    else:
        raise AssertionError("the container was created")
    details = refused.details() or ""
    assert refused.code() is code, details
    for word in words:
        assert word in details, details
    return details


def renew(pod: Pod, token: str) -> None:
    """Update the pod's Secret as kubelet does: write a new version, then replace `..data`."""
    volume = pod.files.volume(VOLUME)
    version = volume / f"..renewed-{next(_numbers)}"
    version.mkdir()
    (version / FILE).write_text(token)
    beside = volume / "..data_tmp"
    beside.symlink_to(version.name)
    beside.rename(volume / "..data")


@contextmanager
def unavailable(hub: FloxHub) -> Iterator[None]:
    """Make FloxHub unavailable while the context lasts."""
    hub.stop()
    try:
        yield
    finally:
        hub.start()
