"""`cri-proxy install` on a node with a real systemd and a real containerd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.testbed import waiting
from hack.testbed.machine import Machine, difference

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]

INSTALL = ("/testbed/tree/bin/cri-proxy", "install")
UPGRADE = ("/testbed/newer/bin/cri-proxy", "install")
COMMAND = "/usr/local/bin/cri-proxy"
PROXY = "unix:///run/cri-proxy/cri-proxy.sock"
CONTAINERD = "unix:///run/containerd/containerd.sock"


def kubelet(node: Machine) -> dict[str, Any]:
    """Return kubelet's record of its calls."""
    output: dict[str, Any] = json.loads(node.run("cat", "/run/kubelet.json", is_checked=True))
    return output


def await_kubelet(node: Machine, endpoint: str, *, after: int = -1) -> dict[str, Any]:
    """Wait until kubelet has made more than `after` calls to `endpoint`."""

    def seen() -> dict[str, Any] | None:
        try:
            output = kubelet(node)
        except (AssertionError, ValueError):
            return None
        return output if output["endpoint"] == endpoint and output["calls"] > after else None

    return waiting.until(seen, what=f"kubelet at {endpoint}", explain=lambda: str(kubelet(node)))


def main_pid(node: Machine, unit: str) -> str:
    return node.run("systemctl", "show", "--value", "--property=MainPID", unit).strip()


def test_install_puts_the_proxy_before_kubelet_and_uninstall_leaves_no_trace(node: Machine) -> None:
    await_kubelet(node, CONTAINERD)
    before = node.snapshot()

    output = node.run(*INSTALL, is_checked=True)

    assert "kubelet's healthz says ok" in output
    assert await_kubelet(node, PROXY)["failures"] == []
    assert "uses the proxy" in node.run(COMMAND, "check")
    assert node.run(COMMAND, "install", is_checked=True).endswith("nothing had to be changed\n")

    node.run(COMMAND, "uninstall", "--purge", is_checked=True)

    await_kubelet(node, CONTAINERD)
    assert difference(before, node.snapshot()) == {}
    assert "cri-proxy" not in node.run("systemctl", "list-units", "--all", "--no-pager")
    assert "cri-proxy" not in node.run("ls", "/run")


def test_a_node_that_does_not_become_healthy_is_restored(node: Machine) -> None:
    node.write("/etc/kubelet-refuses", "")
    await_kubelet(node, CONTAINERD)
    before = node.snapshot()

    output = node.run(*INSTALL, "--within", "10")

    assert "the node is as it was before" in output
    await_kubelet(node, CONTAINERD)
    after = difference(before, node.snapshot())
    assert {path for path in after if not path.startswith("var/lib/cri-proxy")} == set()
    assert "cri-proxy" not in node.run("systemctl", "list-units", "--all", "--no-pager")


def test_an_upgrade_loses_no_call(node: Machine) -> None:
    node.run(*INSTALL, is_checked=True)
    before = await_kubelet(node, PROXY, after=50)
    daemon = main_pid(node, "cri-proxy.service")

    node.run(*UPGRADE, is_checked=True)

    after = await_kubelet(node, PROXY, after=before["calls"] + 50)
    assert main_pid(node, "cri-proxy.service") != daemon
    assert after["pid"] == before["pid"]
    assert after["failures"] == []


def test_a_killed_daemon_is_restarted_behind_its_socket(node: Machine) -> None:
    node.run(*INSTALL, is_checked=True)
    daemon = main_pid(node, "cri-proxy.service")

    node.run("systemctl", "kill", "--signal=KILL", "cri-proxy.service", is_checked=True)

    def is_back() -> bool:
        return main_pid(node, "cri-proxy.service") not in (daemon, "0")

    waiting.until(is_back, what="another daemon")
    before = kubelet(node)
    await_kubelet(node, PROXY, after=before["calls"] + 50)


def test_the_node_comes_up_with_the_proxy_after_a_restart(node: Machine) -> None:
    node.run(*INSTALL, is_checked=True)
    node.stop()

    node.boot()

    assert await_kubelet(node, PROXY, after=50)["failures"] == []


def test_stopping_the_service_leaves_no_process(node: Machine) -> None:
    node.run(*INSTALL, is_checked=True)
    running = programs(node)

    node.run("systemctl", "stop", "cri-proxy.service", "cri-proxy.socket", is_checked=True)

    assert "cri-proxy" in running
    assert "cri-proxy" not in programs(node)


def programs(node: Machine) -> list[str]:
    """Return the names of all processes on the node."""
    return node.run("sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null").split()
