"""Containers without their environment are refused: the cause is named, and can be fixed.

Every test breaks one thing, asserts that a pod is refused with a code and a message that names the
cause, checks the disk, fixes the cause and asserts that the same pod starts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.store import nar
from cri_proxy.store.disk.local import Store
from hack.testbed import environments, images, kubelet, waiting
from hack.testbed.binary_cache import Publisher
from hack.testbed.environments import Package
from hack.testbed.web import Corruption, FileServer, Truncation
from tests.e2e.conftest import Node, spec

OTHER_SYSTEM = "aarch64-darwin"


def refused(node: Node, environment: str) -> grpc.RpcError:
    """Return the error with which a pod of `environment` is refused."""
    with pytest.raises(grpc.RpcError) as found:
        node.run(environment, "true")
    assert_nothing_half_made(node)
    return found.value


def assert_refused(node: Node, environment: str, code: grpc.StatusCode, *words: str) -> None:
    """Assert the code of the refusal of `environment`, and that it names cause and reference."""
    error = refused(node, environment)
    details = error.details() or ""
    assert error.code() is code, details
    for word in words:
        assert word in details, details


def assert_starts(node: Node, environment: str) -> None:
    """Assert that the same pod starts now that the cause is gone."""
    assert node.output(environment, "echo", "started") == "started\n"


def assert_nothing_half_made(node: Node) -> None:
    """Assert that the disk has only whole paths, whole environments and empty stages.

    Other paths of the refused environment may still be on their way out when kubelet is answered.
    """
    store = Store(node.proxy.root / "store")
    for path in store.paths():
        record = store.record(path)
        assert record is not None
        assert nar.digest_of(store.locate(path)) == (record.nar_hash, record.nar_size)
    for place in (node.proxy.root / "store", node.proxy.environments):
        stage = place / ".stage"
        waiting.until(lambda stage=stage: not list(stage.iterdir()), what=f"{stage} to be empty")
    made = [place for place in node.proxy.environments.iterdir() if place.name != ".stage"]
    assert all((place / "environment.json").exists() for place in made)


def other_package(node: Node, name: str = "extra") -> Package:
    """Publish a package that no other test's environment has."""
    return node.published.package(name, {f"share/{name}": node.proxy.root.as_posix().encode()})


def test_an_environment_that_does_not_exist(node: Node) -> None:
    assert_refused(node, "acme/web", grpc.StatusCode.NOT_FOUND, "acme/web")

    node.push("web")
    assert_starts(node, "acme/web")


def test_a_generation_that_does_not_exist(node: Node) -> None:
    node.push("web")

    assert_refused(node, "acme/web:2", grpc.StatusCode.NOT_FOUND, "acme/web", "2")

    node.push("web")
    assert_starts(node, "acme/web:2")


@pytest.mark.parametrize("reference", ["a", "a/b/c", "../x", "a/b@2", "a/b:latest", " "])
def test_a_bad_reference(node: Node, reference: str) -> None:
    assert_refused(
        node, reference, grpc.StatusCode.INVALID_ARGUMENT, "flox.dev/environment", "owner/name"
    )


def test_an_environment_that_is_not_locked_for_this_system(node: Node) -> None:
    node.push("web", system=OTHER_SYSTEM)

    assert_refused(
        node, "acme/web", grpc.StatusCode.FAILED_PRECONDITION, "acme/web", OTHER_SYSTEM, "x86_64"
    )

    node.push("web")
    assert_starts(node, "acme/web")


def test_packages_that_conflict(node: Node) -> None:
    one = node.published.package("one", {"bin/greet": b"1"})
    two = node.published.package("two", {"bin/greet": b"2"})
    node.push("web", one, two)

    assert_refused(
        node,
        "acme/web",
        grpc.StatusCode.FAILED_PRECONDITION,
        "acme/web",
        "'one'",
        "'two'",
        "bin/greet",
        "priority",
    )

    node.push("web", one, Package("two", two.path, priority=6))
    assert_starts(node, "acme/web")


def test_floxhub_that_cannot_be_reached(node: Node) -> None:
    node.push("web")
    node.hub.stop()

    assert_refused(node, "acme/web", grpc.StatusCode.UNAVAILABLE, "acme/web", "FloxHub")

    node.hub.start()
    assert_starts(node, "acme/web")


def test_a_cache_that_cannot_be_reached(node: Node) -> None:
    node.push("web")
    node.cache.stop()

    assert_refused(node, "acme/web", grpc.StatusCode.UNAVAILABLE, "acme/web", node.cache.url)

    node.cache.start()
    assert_starts(node, "acme/web")


def test_a_store_path_that_no_cache_has(node: Node) -> None:
    package = other_package(node, "absent")
    info = node.published.publisher.narinfo(package.path)
    node.published.publisher.remove(package.path)
    node.push("web", package)

    assert_refused(node, "acme/web", grpc.StatusCode.NOT_FOUND, "acme/web", str(package.path))

    node.published.publisher.put(info)
    assert_starts(node, "acme/web")


@pytest.mark.parametrize("signer", ["none", "another"])
def test_a_signature_that_is_missing_or_not_trusted(
    node: Node, signer: str, tmp_path: Path
) -> None:
    other = Publisher(tmp_path / "other")
    package = environments.package(other, "unsigned", {"share/x": b"x"})
    if signer == "none":
        text = other.narinfo_file(package.path).read_text()
        lines = [line for line in text.splitlines() if not line.startswith("Sig:")]
        other.narinfo_file(package.path).write_text("\n".join(lines) + "\n")
    node.push("web", package)
    with FileServer(other.directory) as cache:
        node.proxy.configure({"store": {"caches": [node.cache.url, cache.url]}})
        node.proxy.restart()

        assert_refused(
            node, "acme/web", grpc.StatusCode.FAILED_PRECONDITION, "acme/web", str(package.path)
        )

        other.publish(package.path, {"share/x": b"x"})
        keys = [node.published.publisher.public_key, other.public_key]
        node.proxy.configure({"store": {"public_keys": keys}})
        node.proxy.restart()
        assert_starts(node, "acme/web")


@pytest.mark.parametrize("fault", [Corruption(40), Truncation(60)], ids=["corrupt", "truncated"])
def test_an_archive_that_is_damaged(node: Node, fault: Any) -> None:
    package = other_package(node, "damaged")
    archive = node.published.publisher.narinfo(package.path).url
    node.push("web", package)
    node.cache.fail(f"*{archive}", fault)

    error = refused(node, "acme/web")

    assert error.code() in {grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}
    assert "acme/web" in (error.details() or "")
    assert str(package.path) in (error.details() or "")
    node.cache.heal()
    assert_starts(node, "acme/web")


def test_malformed_bytes_in_the_annotations(node: Node) -> None:
    """Protobuf text that is not UTF-8 cannot be decoded, and our key is in it."""
    node.push("web")
    pod = node.pod("acme/web")
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id=pod.id,
        sandbox_config=pod.config,
        config=kubelet.container_config(
            pod.files, pod.config, spec("true"), image_id=images.PLACEHOLDER
        ),
    ).SerializeToString()
    broken = request.replace(b"acme/web", b"acme/\xff\xfe\xfd")
    channel = grpc.insecure_channel(f"unix:{node.proxy.socket}")
    with channel, pytest.raises(grpc.RpcError) as found:
        channel.unary_unary("/runtime.v1.RuntimeService/CreateContainer")(broken, timeout=60)

    assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "flox.dev/environment" in (found.value.details() or "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of the given size at the same place, and unmount it at the end."""
    place = tmp_path / "small"
    place.mkdir()
    mounted: list[Path] = []

    def resize(size: str) -> Path:
        options = f"size={size},mode=0755" + (",remount" if mounted else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        mounted[:] = [place]
        return place

    yield resize
    if mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk(node: Node, small_disk: Callable[[str], Path]) -> None:
    node.proxy.stop()
    root = small_disk("512k")
    node.proxy.configure({"store": {"root": str(root)}})
    node.proxy.start()
    node.push("web")

    with pytest.raises(grpc.RpcError) as found:
        node.run("acme/web", "true")

    assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = found.value.details() or ""
    assert "acme/web" in details
    assert "are needed" in details
    stage = root / "store" / ".stage"
    waiting.until(lambda: not list(stage.iterdir()), what=f"{stage} to be empty")
    assert Store(root / "store").paths() == ()
    small_disk("64m")
    assert_starts(node, "acme/web")
