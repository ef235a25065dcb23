"""A pod with a real image: the environment is layered on it, and the image keeps its say.

Each test runs a container in an ordinary pod, then the same one in pods with an environment that
is wrapped (it has a hook) and one that is not: the program must see no difference but PATH.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from hack.testbed import images
from tests.e2e.conftest import Node, spec

ENVIRONMENTS = ("plain", "hooked")
TELL = 'echo "$(id -u):$(id -g)|$(pwd)|$FROM_IMAGE|$0|$#|$*"'
SHELL = ("/bin/sh", "-c", TELL)

Given = Callable[..., str]


@pytest.fixture
def given(node: Node) -> Given:
    """Make an image of busybox's files that says the given things; return its name."""
    node.push("plain")
    node.push("hooked", node.published.bash, hook="export HOOKED=yes")
    (busybox,) = [each for each in images.of_testbed() if each.name == images.BUSYBOX]

    def give(**parts: Any) -> str:
        settings = {"cmd": (), "env": ("PATH=/srv/bin:/bin", "FROM_IMAGE=yes"), **parts}
        image = replace(busybox, name="docker.io/cri-proxy/given:1", **settings)
        node.containerd.import_images([image])
        return image.name

    return give


def outputs(node: Node, **parts: Any) -> tuple[bytes, list[bytes]]:
    """Return what a container writes in an ordinary pod, and in each environment."""
    ordinary = node.pods.run_pod("ordinary").run(spec(**parts))
    assert ordinary.wait() == 0, ordinary.logs()
    seen = []
    for name in ENVIRONMENTS:
        container = node.pod(f"acme/{name}").run(spec(**parts))
        assert container.wait() == 0, container.logs()
        seen.append(container.logs().stdout)
    return ordinary.logs().stdout, seen


@pytest.mark.parametrize(
    ("of_image", "of_pod"),
    [
        ({"entrypoint": SHELL}, {}),
        ({"entrypoint": SHELL}, {"args": ("zero", "a b", "*")}),
        ({"cmd": (*SHELL, "zero", "cmd")}, {}),
        ({"cmd": ("nothing",)}, {"args": (*SHELL, "zero", "args")}),
        ({"entrypoint": SHELL, "cmd": ("zero", "cmd")}, {}),
        ({"entrypoint": SHELL, "cmd": ("zero", "cmd")}, {"args": ("other", "", "$HOME")}),
        ({"entrypoint": ("nothing",), "cmd": ("cmd",)}, {"command": SHELL}),
        ({"entrypoint": ("nothing",), "cmd": ("c",)}, {"command": SHELL, "args": ("zero", "one")}),
    ],
    ids=[
        "entrypoint alone",
        "entrypoint and the pod's arguments",
        "cmd alone",
        "the pod's arguments alone",
        "entrypoint and cmd",
        "entrypoint and the pod's arguments instead of cmd",
        "the pod's command instead of both",
        "the pod's command and arguments instead of both",
    ],
)
def test_the_same_command_runs_as_without_the_proxy(
    node: Node, given: Given, of_image: dict[str, Any], of_pod: dict[str, Any]
) -> None:
    ordinary, inside = outputs(node, image=given(**of_image), **of_pod)

    assert inside == [ordinary, ordinary]
    assert b"|yes|" in ordinary


@pytest.mark.parametrize(
    ("of_pod", "user", "directory"),
    [
        ({}, b"1000:1000", b"/srv"),
        ({"user": 0}, b"0:0", b"/srv"),
        ({"user": "root", "working_dir": "/etc"}, b"0:0", b"/etc"),
    ],
    ids=["the image's", "another user", "another user and directory"],
)
def test_user_and_directory_are_the_images_unless_the_pod_sets_them(
    node: Node, given: Given, of_pod: dict[str, Any], user: bytes, directory: bytes
) -> None:
    image = given(entrypoint=SHELL, user="app", working_dir="/srv")

    ordinary, inside = outputs(node, image=image, **of_pod)

    assert ordinary.startswith(user + b"|" + directory + b"|")
    assert inside == [ordinary, ordinary]


@pytest.mark.parametrize(
    ("of_image", "of_pod", "path"),
    [
        ({}, {}, "/srv/bin:/bin"),
        ({}, {"envs": [("PATH", b"/bin:/pod")]}, "/bin:/pod"),
        ({"env": ()}, {}, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ],
    ids=["the image's", "the pod's", "neither's"],
)
def test_programs_are_found_in_the_environment_first_and_then_in_the_image(
    node: Node, given: Given, of_image: dict[str, Any], of_pod: dict[str, Any], path: str
) -> None:
    script = 'test "$PATH" != "${PATH#$FLOX_ENV/bin:}" && echo "${PATH#$FLOX_ENV/bin:}"'

    for name in ENVIRONMENTS:
        image = given(entrypoint=("sh", "-c"), **of_image)
        seen = node.output(f"acme/{name}", image=image, args=(script,), **of_pod)
        assert seen.strip() == path


def test_the_images_own_files_are_present_beside_the_store(node: Node, given: Given) -> None:
    image = given(entrypoint=("/bin/sh", "-c"))

    for name in ENVIRONMENTS:
        seen = node.output(f"acme/{name}", image=image, args=("ls -d /bin/busybox /nix/store/*",))
        assert seen.startswith("/bin/busybox\n/nix/store/")


def test_an_image_without_a_command_is_refused_as_the_runtime_would(
    node: Node, given: Given
) -> None:
    image = given()
    with pytest.raises(grpc.RpcError) as by_runtime:
        node.pods.run_pod("ordinary").create(spec(image=image))
    with pytest.raises(grpc.RpcError) as when_plain:
        node.pod("acme/plain").create(spec(image=image))
    with pytest.raises(grpc.RpcError) as when_wrapped:
        node.pod("acme/hooked").create(spec(image=image))

    assert "no command" in (by_runtime.value.details() or "")
    assert "no command" in (when_plain.value.details() or "")
    assert "add a command" in (when_wrapped.value.details() or "")
