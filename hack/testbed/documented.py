"""The pods documented in docs/pods.md, and the environments that they refer to.

    push(hub, published)
    for sample in samples():
        running = manifests.run(pods, sample.manifest, SECRETS)

The end-to-end tests run each pod and compare its output with the page; `hack.recording` records
the calls that the runtime receives for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hack.testbed import environments, manifests
from hack.testbed.environments import Published
from hack.testbed.floxhub import FloxHub

PAGE: Final = Path(__file__).parents[2] / "docs" / "pods.md"
TOKEN: Final = "flox_pat_documented"
SECRETS: Final = {"floxhub-token": {"floxhub-token": TOKEN.encode()}}
HEADER: Final = b"#define PROPAGATED 1\n"
_HOOK: Final = 'echo "preparing for ${REGION:-nobody}"\nexport QUEUE=tasks-$REGION\n'
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sample:
    """A documented pod, and the commands shown below it, each with its expected output."""

    manifest: dict[str, Any]
    commands: tuple[tuple[str, str], ...]


def samples(page: Path = PAGE) -> Iterator[Sample]:
    """Yield the pods of `page`; the code block after a manifest has its commands."""
    blocks = [match.groups() for match in _BLOCK.finditer(page.read_text())]
    for (kind, text), (_, below) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "yaml":
            (manifest,) = manifests.parse(text)
            parts = below.split("$ ")[1:]
            yield Sample(manifest, tuple((a, b) for a, _, b in (p.partition("\n") for p in parts)))


def handlers(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the probes and lifecycle hooks of a pod, each with its container's name."""
    return [
        (each["name"], place)
        for each in manifest["spec"]["containers"]
        for place in (
            *(name for name in each if name.endswith("Probe")),
            *each.get("lifecycle", {}),
        )
    ]


def push(hub: FloxHub, published: Published) -> None:
    """Push the environments of the page; `acme/web` has two generations."""
    tools = published.tools
    for greeting in ("hello", "good day"):
        hub.push("acme", "web", environments.lockfile(tools, variables={"GREETING": greeting}))
    hub.push("acme", "tasks", environments.lockfile(tools, published.bash, hook=_HOOK))
    hub.push("acme", "db", environments.lockfile(tools))
    propagated = published.package("propagated", {"include/propagated.h": HEADER})
    library = environments.package(
        published.publisher,
        "library",
        {
            "include/library.h": b"#include <propagated.h>\n",
            "nix-support/propagated-build-inputs": str(propagated.path).encode(),
        },
        [propagated.path],
    )
    hub.push("acme", "library", environments.lockfile(tools, library))
    hub.push("acme-labs", "model", environments.lockfile(tools))
    hub.require_token("acme-labs", TOKEN)
