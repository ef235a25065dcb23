"""The API server accepts manifests/, and the samples work as documented."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hack.cluster import samples
from hack.cluster.kubectl import Kubectl, pod_is_ready
from tests.kubernetes.spaces import RUNTIME_CLASS, START_SECONDS, Space

MANIFESTS = Path(__file__).parents[2] / "manifests"
KUSTOMIZATIONS = sorted(
    each.parent.relative_to(MANIFESTS).as_posix() for each in MANIFESTS.rglob("kustomization.yaml")
)
SAMPLES = ("pinned", "private", "dev", "mutable", "mixed", "hooked")


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_api_server_accepts_every_object(kubectl: Kubectl, name: str) -> None:
    built = kubectl("kustomize", str(MANIFESTS / name))
    documents = list(yaml.safe_load_all(built))
    spaces = [each for each in documents if each["kind"] == "Namespace"]
    # Objects in a namespace or of a class cannot be tried before that exists.
    kubectl.apply(RUNTIME_CLASS, *spaces)

    strict = ["--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts"]
    output = kubectl("apply", *strict, "-f", "-", text=built)

    assert len(output.splitlines()) == len(documents)


def test_every_manifest_belongs_to_a_kustomization() -> None:
    named = set()
    for file in MANIFESTS.rglob("kustomization.yaml"):
        for each in yaml.safe_load(file.read_text()).get("resources", ()):
            named.add((file.parent / each).resolve())

    written = {each for each in MANIFESTS.rglob("*.yaml") if each.name != "kustomization.yaml"}

    others = {"observability/alerts.yaml", "kind/cluster.yaml"}  # of Prometheus, of kind
    assert {each.relative_to(MANIFESTS).as_posix() for each in written - named} == others


def test_the_samples_run(space: Space) -> None:
    space.kubectl(
        "create",
        "secret",
        "generic",
        "floxhub-token",
        f"--from-literal=floxhub-token={samples.TOKEN}",
    )
    space.kubectl("apply", "-k", str(MANIFESTS / "samples"))

    for name in SAMPLES:
        space.ready(name)
    space.kubectl("rollout", "status", "deployment/plain", "--timeout=120s", seconds=180)
    space.kubectl("wait", "--for=condition=complete", "job/job", "--timeout=120s", seconds=180)

    assert space.kubectl("logs", "pinned") == "hello\n"
    assert space.kubectl("logs", "private") == "acme-labs/model\n"
    assert space.kubectl("logs", "dev") == "library.h\n"
    assert "mine" in space.kubectl("logs", "mutable").split()
    assert space.kubectl("logs", "mixed", "-c", "migrate") == "hello\n"
    assert space.kubectl("logs", "mixed", "-c", "main") == "good day\n"
    assert space.kubectl("logs", "mixed", "-c", "helper") == "an ordinary container\n"
    assert space.kubectl("logs", "job/job") == "good day from a job\n"


def test_the_demo_starts_both_services(space: Space) -> None:
    space.kubectl("apply", "-k", str(MANIFESTS / "demo"))

    for app in ("redis", "quotes"):
        space.kubectl.until(
            ["pods", f"--selector=app={app}"],
            lambda pods: pods and all(map(pod_is_ready, pods)),
            seconds=START_SECONDS,
        )
