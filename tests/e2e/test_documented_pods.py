"""docs/pods.md: each pod on that page runs, and prints what the page says it does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.testbed import environments, manifests, waiting
from hack.testbed.environments import Published
from hack.testbed.manifests import Running
from tests.e2e.conftest import Node

PAGE = Path(__file__).parents[2] / "docs" / "pods.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOKEN = b"flox_pat_documented"


@dataclass(frozen=True, slots=True)
class Sample:
    """A pod on the page, and the commands below it, each with what it prints."""

    manifest: dict[str, Any]
    commands: tuple[tuple[str, str], ...]


def samples() -> Iterator[Sample]:
    """Return the samples of the page; the block behind a pod has its commands."""
    blocks = [match.groups() for match in _BLOCK.finditer(PAGE.read_text())]
    for (kind, text), (_, below) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "yaml":
            (manifest,) = manifests.parse(text)
            parts = below.split("$ ")[1:]
            yield Sample(manifest, tuple((a, b) for a, _, b in (p.partition("\n") for p in parts)))


SAMPLES = tuple(samples())


@pytest.fixture
def node_settings(published: Published) -> dict[str, dict[str, Any]]:
    """Set the shell for environments that need one and have none."""
    return {"activation": {"shell": str(published.bash.path)}}


@pytest.fixture
def pushed(node: Node) -> Node:
    """A node where the environments of the page have been pushed."""
    tools, bash = node.published.tools, node.published.bash
    for greeting in ("hello", "good day"):
        node.push("web", variables={"GREETING": greeting})
    hook = 'echo "preparing for ${REGION:-nobody}"\nexport QUEUE=tasks-$REGION\n'
    node.push("tasks", bash, hook=hook)
    node.push("db")
    propagated = node.published.package("propagated", {"include/propagated.h": HEADER})
    library = environments.package(
        node.published.publisher,
        "library",
        {
            "include/library.h": b"#include <propagated.h>\n",
            "nix-support/propagated-build-inputs": str(propagated.path).encode(),
        },
        [propagated.path],
    )
    node.push("library", library)
    node.hub.push("acme-labs", "model", environments.lockfile(tools))
    node.hub.require_token("acme-labs", TOKEN.decode())
    return node


HEADER = b"#define PROPAGATED 1\n"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.manifest["metadata"]["name"])
def test_a_documented_pod_does_what_the_page_says(pushed: Node, sample: Sample) -> None:
    assert sample.commands, "a pod on the page has nothing to show"
    secrets = {"floxhub-token": {"floxhub-token": TOKEN}}

    running = manifests.run(pushed.pods, sample.manifest, secrets)

    for command, expected in sample.commands:
        assert_prints(running, command, expected)
    for name, place in handlers(sample.manifest):
        done = running.execute(name, place)
        assert done.exit_code == 0, done


def test_the_page_has_every_annotation() -> None:
    from cri_proxy.interposer import selection

    text = PAGE.read_text()

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


def handlers(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the probes and lifecycle hooks of a pod's containers."""
    return [
        (each["name"], place)
        for each in manifest["spec"]["containers"]
        for place in (
            *(name for name in each if name.endswith("Probe")),
            *each.get("lifecycle", {}),
        )
    ]
