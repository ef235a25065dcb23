"""Pods with `hostUsers: false`, on a runtime that knows user namespaces.

The files of an environment have owners that do not exist in such a namespace, and must be usable
all the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from hack.testbed import manifests
from hack.testbed.containerd import Containerd
from hack.testbed.environments import Published
from tests.e2e.conftest import Node

HOOK = "export HOOKED=$(echo yes)"


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    """Run this module's nodes on a runtime that is new enough."""
    return newest_containerd


@pytest.fixture
def node_settings(published: Published) -> dict[str, dict[str, Any]]:
    """Set the shell for environments that need one and have none."""
    return {"activation": {"shell": str(published.bash.path)}}


def running(node: Node, *annotations: str) -> manifests.Running:
    """Run a pod that shares no users with the node."""
    further = "".join(f"\n    {each}" for each in annotations)
    (manifest,) = manifests.parse(f"""
apiVersion: v1
kind: Pod
metadata:
  name: userns
  annotations:
    flox.dev/environment: "acme/web"{further}
spec:
  runtimeClassName: flox
  hostUsers: false
  containers:
    - name: main
      image: flox/empty:1.0.0
      command: ["sh", "-c", "cat /proc/self/uid_map; echo $GREETING; exec sleep 600"]
""")
    return manifests.run(node.pods, manifest)


@pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
def test_a_pod_with_a_user_namespace_runs_in_its_environment(node: Node, hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)

    main = running(node).main

    main.await_output(rb"^ +0 +65536000 +65536$")
    main.await_output(rb"^hello$")
    done = main.exec_sync(["sh", "-c", "echo $GREETING; id -u"], timeout_seconds=60)
    assert done.stdout == b"hello\n0\n", done


def test_its_store_stays_read_only(node: Node) -> None:
    node.push("web")

    main = running(node).main

    done = main.exec_sync(["sh", "-c", "touch /nix/store/x"], timeout_seconds=60)
    assert done.exit_code == 1
    assert b"Read-only file system" in done.stderr


def test_its_writable_store_is_its_own(node: Node) -> None:
    node.push("web", node.published.bash, hook=HOOK)

    main = running(node, 'flox.dev/nix-mutable: "true"').main

    done = main.exec_sync(
        ["sh", "-c", "touch /nix/store/x; ls /nix/store/x; echo $HOOKED; id -u"],
        timeout_seconds=60,
    )
    assert done.stdout == b"/nix/store/x\nyes\n0\n", done
    assert not list(node.proxy.environments.glob("*/store/x"))
