"""Recordings of what the runtime receives: repeatable, complete, and sensitive to a change."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from cri_proxy.cri import api_pb2, methods
from hack import recording
from hack.testbed import documented

CREATE = methods.path_of("CreateContainer")


@pytest.fixture(scope="module")
def samples() -> list[documented.Sample]:
    """Two documented pods, which need no root: an ordinary environment and one with a hook."""
    names = ("hello", "worker")
    return [each for each in documented.samples() if each.manifest["metadata"]["name"] in names]


async def test_two_recordings_of_one_version_are_the_same(
    tmp_path: Path, samples: list[documented.Sample]
) -> None:
    first = await recording.record(samples, tmp_path / "r")
    second = await recording.record(samples, tmp_path / "r")

    assert list(recording.differences(first, second)) == []
    assert set(first["pods"]) == {
        "hello",
        "hello, questions",
        "worker",
        "worker, questions",
    }
    for calls in first["pods"].values():
        assert calls
    assert len(first["relayed"]) > len(methods.ALL)
    assert all(len(calls) == 1 for calls in first["relayed"].values())


async def test_a_changed_payload_and_a_missing_pod_are_reported(
    tmp_path: Path, samples: list[documented.Sample]
) -> None:
    before = await recording.record(samples[:1], tmp_path / "r")
    after = copy.deepcopy(before)
    call = next(each for each in after["pods"]["hello"] if each["path"] == CREATE)
    call["payload"] = next(iter(before["relayed"].values()))[0]["payload"]
    del after["pods"]["hello, questions"]

    found = list(recording.differences(before, after))

    assert found[0] == "pods / hello:"
    assert '-  command: "sh"' in found
    assert found[-1] == "pods / hello, questions: only in BEFORE"


def test_normalization_sorts_maps_and_keeps_lengths() -> None:
    uid = "3f0c8b52-6a0c-4f6e-9d5d-1b1f8f0b8a11"
    request = api_pb2.CreateContainerRequest(pod_sandbox_id=uid)
    request.config.command.extend(["/dev/shm/.flox-activation-0123456789abcdef", "b", "a"])
    request.config.mounts.add(host_path=f"/state/mutable/{'ab' * 16}/store")
    for key in ("z", "a", "m"):
        request.config.annotations[key] = "ab" * 16

    payload = recording.normalized(
        CREATE, request.SerializeToString(), {uid.encode(): b"0" * len(uid)}
    )

    decoded = api_pb2.CreateContainerRequest.FromString(payload)
    assert decoded.pod_sandbox_id == "0" * 36
    assert list(decoded.config.command) == ["/dev/shm/.flox-activation-" + "0" * 16, "b", "a"]
    assert decoded.config.mounts[0].host_path == f"/state/mutable/{'0' * 32}/store"
    assert dict(decoded.config.annotations) == dict.fromkeys(("a", "m", "z"), "0" * 32)
    assert payload == decoded.SerializeToString(deterministic=True)
