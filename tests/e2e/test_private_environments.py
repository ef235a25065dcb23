"""Private environments: only pods with a token that FloxHub accepts get them.

Tokens come as Flox documents it, from a Secret mounted at /var/run/secrets/flox.dev, or from the
node's own file. FloxHub is asked for every start; what is on the node is no permission.
"""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from cri_proxy.interposer.tokens import FILE, MOUNT
from hack.testbed import environments, kubelet, waiting
from hack.testbed.pods import Pod
from hack.testbed.private import VOLUME, output, refusal, renew, run_pod, unavailable
from hack.testbed.web import Hang, Status
from tests.e2e.conftest import Node, spec

MACHINE = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJub2RlQGNsaWVudHMifQ.c2lnbmF0dXJl-_x"
PERSONAL = "flox_pat_0123456789abcdefghijABCDEFGHIJ"
SAY = ("echo", "private")


def run(pod: Pod, *, attempt: int = 0, place: str = MOUNT) -> bytes:
    """Return what a program wrote that ran in the pod and ended well."""
    return output(pod, *SAY, attempt=attempt, place=place)


@pytest.fixture
def private(node: Node) -> Node:
    """A node and a FloxHub with the private environment acme/web."""
    node.push("web")
    node.hub.require_token("acme", MACHINE, PERSONAL)
    return node


@pytest.mark.parametrize("token", [MACHINE, PERSONAL], ids=["machine", "personal"])
@pytest.mark.parametrize("place", [MOUNT, MOUNT.removeprefix("/var"), MOUNT + "/"])
def test_a_token_in_the_pods_secret_opens_a_private_environment(
    private: Node, token: str, place: str
) -> None:
    assert run(run_pod(private.pods, "acme/web", token), place=place) == b"private\n"


def test_the_tokens_file_may_be_mounted_alone(private: Node) -> None:
    pod = run_pod(private.pods, "acme/web", PERSONAL)
    file = pod.files.volume(VOLUME) / FILE
    mount = kubelet.Mount(file.resolve(), f"{MOUNT}/{FILE}", is_read_only=True)

    container = pod.run(spec(*SAY, mounts=[mount]))

    assert container.wait() == 0, container.logs()


def test_the_nodes_token_is_for_pods_without_one(private: Node, tmp_path: Path) -> None:
    file = tmp_path / "node-token"
    file.write_text(f"{MACHINE}\n")
    private.proxy.configure({"floxhub": {"token_file": str(file)}})
    private.proxy.restart()

    assert run(run_pod(private.pods, "acme/web", None)) == b"private\n"
    refusal(run_pod(private.pods, "acme/web", "wrong"), grpc.StatusCode.PERMISSION_DENIED)

    file.write_text("expired")
    refusal(run_pod(private.pods, "acme/web", None), grpc.StatusCode.PERMISSION_DENIED)
    file.write_text(PERSONAL)
    assert run(run_pod(private.pods, "acme/web", None)) == b"private\n"


def test_a_node_without_its_token_still_runs_public_environments(
    private: Node, tmp_path: Path
) -> None:
    private.hub.push("free", "web", _lock(private))
    private.proxy.configure({"floxhub": {"token_file": str(tmp_path / "absent")}})
    private.proxy.restart()

    assert run(run_pod(private.pods, "free/web", None)) == b"private\n"
    refusal(run_pod(private.pods, "acme/web", None), grpc.StatusCode.PERMISSION_DENIED)
    assert f"{tmp_path}/absent" in private.proxy.log_text()


@pytest.mark.parametrize("token", [None, "wrong", PERSONAL.upper()], ids=["no", "wrong", "other"])
def test_a_pod_without_a_valid_token_is_refused_although_the_environment_is_present(
    private: Node, token: str | None
) -> None:
    assert run(run_pod(private.pods, "acme/web", PERSONAL))

    for reference in ("acme/web", "acme/web:1"):
        refusal(
            run_pod(private.pods, reference, token),
            grpc.StatusCode.PERMISSION_DENIED,
            "acme/web",
            "flox auth token" if token else "floxhub-token at /var/run/secrets/flox.dev",
        )


def test_a_remembered_resolution_is_for_one_token(private: Node) -> None:
    private.proxy.configure({"floxhub": {"remember_seconds": 600}})
    private.proxy.restart()
    assert run(run_pod(private.pods, "acme/web", PERSONAL))
    asked = private.hub.count("/git/*")

    assert run(run_pod(private.pods, "acme/web", PERSONAL))
    assert private.hub.count("/git/*") == asked
    refusal(run_pod(private.pods, "acme/web", None), grpc.StatusCode.PERMISSION_DENIED)
    refusal(run_pod(private.pods, "acme/web", "wrong"), grpc.StatusCode.PERMISSION_DENIED)


def test_a_public_environment_needs_no_token(private: Node) -> None:
    private.hub.push("free", "web", _lock(private))

    assert run(run_pod(private.pods, "free/web", None)) == b"private\n"


def test_a_container_that_restarts_keeps_the_environment_even_without_a_valid_token(
    private: Node,
) -> None:
    pod = run_pod(private.pods, "acme/web", PERSONAL)
    assert run(pod)
    private.hub.require_token("acme", MACHINE)

    assert run(pod, attempt=1) == b"private\n"
    private.proxy.restart()
    assert run(pod, attempt=2) == b"private\n"
    (pod.files.volume(VOLUME) / "..data").unlink()
    assert run(pod, attempt=3) == b"private\n"
    refusal(run_pod(private.pods, "acme/web", PERSONAL), grpc.StatusCode.PERMISSION_DENIED)


def test_what_a_pod_was_given_opens_no_other_private_environment(private: Node) -> None:
    private.push("other", variables={"OTHER": "1"})
    pod = private.pods.run_pod(
        "private-twice",
        {"flox.dev/environment": "acme/web", "flox.dev/environment.second": "acme/other"},
        secrets={VOLUME: {FILE: PERSONAL.encode()}},
    )
    assert run(pod)

    with pytest.raises(grpc.RpcError) as refused:
        pod.create(spec(*SAY, name="second"))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_renewed_token_is_used_at_the_next_attempt(private: Node) -> None:
    pod = run_pod(private.pods, "acme/web", "expired")
    refusal(pod, grpc.StatusCode.PERMISSION_DENIED, "expired, or it has no access")

    renew(pod, MACHINE)

    assert run(pod, attempt=1) == b"private\n"


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff\x00", b"x" * 70_000])
def test_a_secret_that_contains_no_token_is_refused(private: Node, content: bytes) -> None:
    pod = run_pod(private.pods, "acme/web", content)

    refusal(pod, grpc.StatusCode.INVALID_ARGUMENT, FILE, MOUNT, "contains no token")


def test_a_secret_with_another_key_is_refused(private: Node) -> None:
    pod = run_pod(private.pods, "acme/web", PERSONAL, key="token")

    refusal(pod, grpc.StatusCode.INVALID_ARGUMENT, "add the key floxhub-token to the Secret")


@pytest.mark.parametrize("way", ["file", "directory", "pipe", "device"])
def test_a_token_outside_the_mounted_volume_is_refused_and_never_read(
    private: Node, tmp_path: Path, way: str
) -> None:
    """A pod may fill what it mounts; a link in it must not read another's file for it."""
    loot = tmp_path / "another-pod"
    loot.mkdir()
    (loot / FILE).write_text(PERSONAL)
    volume = tmp_path / "volume"
    volume.mkdir()
    match way:
        case "file":
            (volume / FILE).symlink_to(loot / FILE)
        case "directory":
            (volume / "..data").symlink_to("../another-pod")
            (volume / FILE).symlink_to(f"..data/{FILE}")
        case "pipe":
            os.mkfifo(volume / FILE)
        case "device":
            (volume / FILE).symlink_to("/dev/zero")
    pod = run_pod(private.pods, "acme/web", None)

    with pytest.raises(grpc.RpcError) as refused:
        pod.create(spec(*SAY, mounts=[kubelet.Mount(volume, MOUNT)]))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = refused.value.details() or ""
    assert ("is a link to a file outside" if way != "pipe" else "not a regular file") in details


def test_the_sandbox_begins_with_the_pods_token_and_the_container_joins(private: Node) -> None:
    archive = private.published.publisher.narinfo(private.published.tools.path).url
    hang = Hang(1000)
    private.cache.fail(f"*{archive}", hang, times=1)
    pod = run_pod(private.pods, "acme/web", PERSONAL)
    waiting.until(lambda: private.cache.count(f"*{archive}"), what="the download to begin")
    stranger = run_pod(private.pods, "acme/web", None)
    asked = private.hub.count("/git/*")

    refusal(stranger, grpc.StatusCode.PERMISSION_DENIED)
    assert private.hub.count("/git/*") > asked
    asked = private.hub.count("/git/*")
    hang.released.set()

    assert run(pod) == b"private\n"
    assert private.hub.count("/git/*") == asked
    assert private.cache.count(f"*{archive}") == 1


def test_a_secret_of_the_pod_that_the_container_does_not_mount_is_no_permission(
    private: Node,
) -> None:
    pod = run_pod(private.pods, "acme/web", PERSONAL)

    with pytest.raises(grpc.RpcError) as refused:
        pod.create(spec(*SAY))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_sandbox_whose_token_is_not_known_yet_logs_no_warning(private: Node) -> None:
    asked = private.hub.count("/git/*")
    run_pod(private.pods, "acme/web", None)

    waiting.until(
        lambda: "environment not realized" in private.proxy.log_text(), what="the early refusal"
    )

    assert private.hub.count("/git/*") > asked
    assert not [each for each in private.proxy.log_text().splitlines() if " warning " in each]


def test_without_floxhub_a_token_that_was_accepted_gets_the_last_known_generation(
    private: Node,
) -> None:
    assert run(run_pod(private.pods, "acme/web", PERSONAL))
    with unavailable(private.hub):
        assert run(run_pod(private.pods, "acme/web", PERSONAL)) == b"private\n"
        for token in (None, "wrong", MACHINE):
            refusal(
                run_pod(private.pods, "acme/web", token),
                grpc.StatusCode.UNAVAILABLE,
                "acme/web",
                "gave no answer",
            )
        listed = private.proxy.run("environments")
        assert " stale " in listed

    log = private.proxy.log_text()
    assert "floxhub unavailable, last known generation used" in log
    assert "stale=true" in log
    assert run(run_pod(private.pods, "acme/web", PERSONAL)) == b"private\n"
    assert " confirmed " in private.proxy.run("environments")


def test_a_token_that_floxhub_has_refused_gets_nothing_in_an_outage(private: Node) -> None:
    assert run(run_pod(private.pods, "acme/web", PERSONAL))
    private.hub.require_token("acme", MACHINE)
    refusal(run_pod(private.pods, "acme/web", PERSONAL), grpc.StatusCode.PERMISSION_DENIED)

    with unavailable(private.hub):
        refusal(run_pod(private.pods, "acme/web", PERSONAL), grpc.StatusCode.UNAVAILABLE)


def test_a_floxhub_that_answers_with_errors_counts_as_unavailable(private: Node) -> None:
    assert run(run_pod(private.pods, "acme/web", PERSONAL))

    private.hub.fail("*", Status(503))

    assert run(run_pod(private.pods, "acme/web", PERSONAL)) == b"private\n"
    refusal(run_pod(private.pods, "acme/web", "wrong"), grpc.StatusCode.UNAVAILABLE)


def _lock(node: Node) -> dict[str, object]:
    return environments.lockfile(node.published.tools)
