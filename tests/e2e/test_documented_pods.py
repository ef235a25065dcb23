"""docs/pods.md: each pod on that page runs, and prints what the page says it does."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from hack.testbed import documented, manifests, waiting
from hack.testbed.documented import Sample
from hack.testbed.environments import Published
from hack.testbed.manifests import Running
from tests.e2e.conftest import Node

SAMPLES = tuple(documented.samples())


@pytest.fixture
def node_settings(published: Published) -> dict[str, dict[str, Any]]:
    """Set the shell for environments that need one and have none."""
    return {"activation": {"shell": str(published.bash.path)}}


@pytest.fixture
def pushed(node: Node) -> Node:
    """A node where the environments of the page have been pushed."""
    documented.push(node.hub, node.published)
    return node


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.manifest["metadata"]["name"])
def test_a_documented_pod_does_what_the_page_says(pushed: Node, sample: Sample) -> None:
    assert sample.commands, "a pod on the page has nothing to show"

    running = manifests.run(pushed.pods, sample.manifest, documented.SECRETS)

    for command, expected in sample.commands:
        assert_prints(running, command, expected)
    for name, place in documented.handlers(sample.manifest):
        done = running.execute(name, place)
        assert done.exit_code == 0, done


def test_the_page_has_every_annotation() -> None:
    from cri_proxy.interposer import selection

    text = documented.PAGE.read_text()

    names = {
        value
        for value in vars(selection).values()
        if isinstance(value, str) and value.startswith(selection.PREFIX) and value[-1] != "/"
    }
    assert len(names) == 6
    assert all(f"| `{name}` |" in text for name in names)


def assert_prints(running: Running, command: str, expected: str) -> None:
    """Hold `kubectl logs` and `kubectl exec` to what they print; two streams have no order."""
    program, verb, pod, *rest = shlex.split(command)
    assert (program, pod) == ("kubectl", running.manifest["metadata"]["name"])
    container = running.main
    if rest[:1] == ["-c"]:
        container = running.containers[rest[1]]
        rest = rest[2:]
    lines = sorted(expected.splitlines())
    if verb == "exec":
        assert rest[0] == "--"
        done = container.exec_sync(rest[1:], timeout_seconds=60)
        assert (done.exit_code, sorted(done.stdout.decode().splitlines())) == (0, lines)
        return

    def printed() -> list[str]:
        logs = container.logs()
        return sorted((logs.stdout + logs.stderr).decode().splitlines())

    waiting.until(
        lambda: printed() == lines,
        what=f"{command} to print {lines}",
        explain=lambda: f"it prints {printed()}",
    )
