"""`flox.dev/nix-mutable`: a /nix of a container's own over the view that it shares, and its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cri_proxy.store import nar
from hack.testbed import kubelet, waiting
from hack.testbed.pods import Pod
from tests.e2e.conftest import Node, spec

MUTABLE = {"flox.dev/nix-mutable": "true"}


def overlays(node: Node) -> list[Path]:
    """Return the directories of all overlays on the node."""
    return [each for each in (node.proxy.root / "mutable").glob("*") if each.is_dir()]


def mounts(node: Node) -> list[str]:
    """Return what is mounted below the proxy's root."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for line in lines if (place := line.split()[4]).startswith(str(node.proxy.root))]


def assert_gone(node: Node) -> None:
    """Assert that nothing is left of any overlay."""

    def is_gone() -> bool:
        return not list((node.proxy.root / "mutable").glob("*")) and not mounts(node)

    waiting.until(is_gone, what="the overlays to go", explain=lambda: f"{overlays(node)}")


def digests(node: Node) -> dict[str, bytes]:
    """Return the content of every store path and of every path of every view, as digests."""
    places = [
        *(node.proxy.root / "store").glob("[!.]*"),
        *node.proxy.environments.glob("[!.]*/store/*"),
    ]
    return {str(place): nar.digest_of(place)[0] for place in places}


def mutable(node: Node, **parts: object) -> Pod:
    """Push an environment and run a pod with a writable /nix."""
    node.push("web", **parts)
    return node.pod("acme/web", MUTABLE)


def test_a_container_writes_to_nix_and_neither_the_store_nor_the_view_changes(node: Node) -> None:
    data = node.published.package("data", {"share/data": b"shared\n"})
    node.push("web", data)
    pod = node.pod("acme/web", MUTABLE)
    assert pod.run(spec("true", name="before")).wait() == 0
    before = digests(node)

    container = pod.run(
        spec(
            "sh",
            "-ec",
            "data=$(readlink -f $FLOX_ENV/share/data)\n"
            "echo changed >>$data; chmod 777 $data; touch $data\n"
            "truncate -s 1 $FLOX_ENV/requisites.txt; rm -r /nix/store/*busybox*/bin/wget\n"
            "echo new >/nix/store/new\n"
            "mkdir -p /nix/var/nix/db; echo db >/nix/var/nix/db/db.sqlite\n"
            "chmod u+w $FLOX_ENV; rm $FLOX_ENV/manifest.lock; echo ours >$FLOX_ENV/added\n"
            "cat $data /nix/store/new /nix/var/nix/db/db.sqlite $FLOX_ENV/added; ls $FLOX_ENV",
        )
    )

    assert container.wait() == 0, container.logs()
    lines = container.logs().stdout.decode().split()
    assert lines[:5] == ["shared", "changed", "new", "db", "ours"]
    assert "manifest.lock" not in lines
    assert digests(node) == before


def test_what_one_container_wrote_is_invisible_to_others(node: Node) -> None:
    pod = mutable(node)
    assert pod.run(spec("touch", "/nix/store/mine", name="one")).wait() == 0

    other = pod.run(spec("ls", "/nix/store", name="two"))

    assert other.wait() == 0
    assert b"mine" not in other.logs().stdout


def test_without_the_annotation_nix_is_read_only(node: Node) -> None:
    node.push("web")

    container = node.pod("acme/web", {"flox.dev/nix-mutable": "false"}).run(
        spec("touch", "/nix/store/new")
    )

    assert container.wait() != 0
    assert b"Read-only file system" in container.logs().stderr
    assert not overlays(node)


@pytest.mark.parametrize("user", [0, 1234])
def test_a_read_only_root_and_any_user_still_get_a_writable_nix(node: Node, user: int) -> None:
    pod = mutable(node, variables={"GREETING": "hello"})

    container = pod.run(
        spec(
            "sh",
            "-ec",
            "mkdir /nix/store/0-new /nix/var; echo $GREETING >/nix/store/0-new/file\n"
            "cat /nix/store/0-new/file; ! touch /elsewhere",
            user=user,
            is_root_read_only=True,
            drops_capabilities=True,
        )
    )

    assert container.wait() == 0, container.logs()
    assert container.logs().stdout == b"hello\n"


def test_a_hook_runs_with_a_writable_nix(node: Node) -> None:
    node.push("web", node.published.bash, hook="echo written >/nix/store/by-hook")

    container = node.pod("acme/web", MUTABLE).run(spec("cat", "/nix/store/by-hook"))

    assert container.wait() == 0, container.logs()
    assert container.logs().stdout == b"written\n"


def remove_container(pod: Pod) -> None:
    pod.run(spec("true")).remove()


def remove_pod(pod: Pod) -> None:
    pod.run(spec("sleep", "600"))
    pod.remove()


@pytest.mark.parametrize("remove", [remove_container, remove_pod])
def test_it_is_deleted_with_its_container(node: Node, remove: Callable[[Pod], None]) -> None:
    remove(mutable(node))

    assert_gone(node)


def test_it_stays_with_its_container_while_others_are_deleted(node: Node) -> None:
    pod = mutable(node)
    staying = pod.run(spec("sleep", "600", name="staying"))
    (kept,) = overlays(node)

    pod.run(spec("true", name="going")).remove()

    waiting.until(lambda: overlays(node) == [kept], what="the other overlay to go")
    assert staying.exec_sync(["touch", "/nix/store/still"], timeout_seconds=30).exit_code == 0


def test_a_container_that_is_refused_leaves_none(node: Node) -> None:
    pod = mutable(node)
    with pytest.raises(grpc.RpcError):
        pod.create(spec("true", user="unknown-user"))

    assert_gone(node)


def test_what_a_killed_proxy_leaves_is_deleted_later(node: Node) -> None:
    pod = mutable(node)
    removed = pod.run(spec("true", name="removed"))
    staying = pod.run(spec("sleep", "600", name="staying"))
    held = json.loads(node.containerd.ctr("containers", "info", staying.id))
    node.proxy.kill()
    with node.containerd.pods() as direct:
        direct.adopt(removed).remove()

    node.proxy.start()

    waiting.until(lambda: len(overlays(node)) == 1, what="the overlay of the removed one to go")
    (kept,) = overlays(node)
    assert str(kept / "store") in {each["source"] for each in held["Spec"]["mounts"]}
    assert mounts(node) == [str(kept / "store")]
    assert staying.exec_sync(["touch", "/nix/store/still"], timeout_seconds=30).exit_code == 0
    node.proxy.restart()
    staying.remove()
    assert_gone(node)


def test_what_is_written_is_accessible_only_to_root_on_the_node(node: Node) -> None:
    pod = mutable(node)
    pod.run(spec("sleep", "600"))

    mode = (node.proxy.root / "mutable").stat().st_mode & 0o777

    assert mode == 0o700


def test_a_volume_at_nix_is_refused(node: Node, tmp_path: Path) -> None:
    pod = mutable(node)

    with pytest.raises(grpc.RpcError) as refused:
        pod.create(spec("true", mounts=[kubelet.Mount(tmp_path, "/nix/")]))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "/nix" in (refused.value.details() or "")
    assert_gone(node)
