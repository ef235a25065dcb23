"""docs/private-environments.md: its pod runs, and pods are refused in the words that it has."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest

from cri_proxy.interposer.tokens import FILE
from hack.testbed import environments, manifests, private, waiting
from tests.e2e.conftest import Node

PAGE = Path(__file__).parents[2] / "docs" / "private-environments.md"
ENVIRONMENT = "acme-labs/model"
TOKEN = "flox_pat_documented"
REFUSALS = re.findall(r"^\| (.+?) \| `(\w+)` \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def pushed(node: Node) -> Node:
    """A node where the environment of the page has been pushed."""
    node.hub.push("acme-labs", "model", environments.lockfile(node.published.tools))
    node.hub.require_token("acme-labs", TOKEN)
    return node


def test_the_documented_pod_runs(pushed: Node) -> None:
    found = re.search(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    (manifest,) = manifests.parse(found[1])

    running = manifests.run(pushed.pods, manifest, {"floxhub-token": {FILE: TOKEN.encode()}})

    assert f"$ kubectl logs model\nrunning {ENVIRONMENT}\n" in PAGE.read_text()
    running.main.await_output(f"^running {ENVIRONMENT}$".encode())


def test_refusals_are_as_documented(pushed: Node) -> None:
    documented = {what: (code, words) for what, code, words in REFUSALS}
    pods = {
        "the pod brings no token": private.run_pod(pushed.pods, ENVIRONMENT, None),
        "FloxHub does not accept the token": private.run_pod(pushed.pods, ENVIRONMENT, "expired"),
        "the Secret has another key": private.run_pod(pushed.pods, ENVIRONMENT, TOKEN, key="token"),
        "the Secret holds something else": private.run_pod(pushed.pods, ENVIRONMENT, "<html> 404"),
        "FloxHub is unavailable, and never accepted this token on this node": None,
    }
    assert documented.keys() == pods.keys()

    for what, pod in pods.items():
        code, words = documented[what]
        if pod is None:
            stranger = private.run_pod(pushed.pods, ENVIRONMENT, "expired")
            with private.unavailable(pushed.hub):
                private.refusal(stranger, code_of(code), words)
        else:
            private.refusal(pod, code_of(code), words)


def test_log_lines_and_marks_of_an_outage_are_as_documented(pushed: Node) -> None:
    pod = private.run_pod(pushed.pods, ENVIRONMENT, TOKEN)
    assert private.output(pod, "true") == b""
    with private.unavailable(pushed.hub):
        again = private.run_pod(pushed.pods, ENVIRONMENT, TOKEN)
        assert private.output(again, "true") == b""

    text = PAGE.read_text()
    for words in ("floxhub unavailable, last known generation used", "stale=true"):
        assert f"`{words}`" in text
        waiting.until(lambda words=words: words in pushed.proxy.log_text(), what=words)
    head, line = pushed.proxy.run("environments").splitlines()
    assert re.sub(" +", " ", head) in re.sub(" +", " ", text)
    assert " stale " in line


def code_of(name: str) -> grpc.StatusCode:
    """Return the code that kubelet calls so."""
    return grpc.StatusCode[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()]
