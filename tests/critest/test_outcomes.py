"""critest's reports, read and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hack.critest import outcomes
from hack.critest.outcomes import Outcome


def spec(
    text: str, state: str, *parents: str, kind: str = "It", message: str = ""
) -> dict[str, Any]:
    """Return a test as Ginkgo reports it; without parents it has none, not an empty list."""
    found = {
        "ContainerHierarchyTexts": list(parents) or None,
        "LeafNodeType": kind,
        "LeafNodeText": text,
        "State": state,
    }
    return found | {"Failure": {"Message": message}} if message else found


def written(directory: Path, *specs: dict[str, Any]) -> Path:
    report = directory / "report.json"
    report.write_text(json.dumps([{"SuitePath": "/", "SpecReports": specs}]))
    return report


def test_a_test_is_known_by_the_words_that_lead_to_it(tmp_path: Path) -> None:
    report = written(
        tmp_path,
        spec("", "passed", kind="BeforeSuite"),
        spec("should run", "passed", "[k8s.io] Pods", "basic"),
        spec("alone", "failed", message="Expected\n    <int>: 1\nto equal\n    <int>: 2"),
    )

    assert outcomes.load(report) == {
        "[k8s.io] Pods basic should run": Outcome("passed", ""),
        "alone": Outcome("failed", "Expected <int>: 1 to equal <int>: 2"),
    }


def test_failing_in_other_words_is_no_difference() -> None:
    directly = {"a": Outcome("failed", "pod-1 is away"), "b": Outcome("passed", "")}
    through = {"a": Outcome("failed", "pod-2 is away"), "b": Outcome("passed", "")}

    assert outcomes.differences(directly, through) == []


def test_another_state_is_a_difference_and_so_is_a_test_that_is_missing() -> None:
    directly = {"a": Outcome("passed", ""), "b": Outcome("passed", ""), "c": Outcome("skipped", "")}
    through = {"a": Outcome("failed", "no"), "c": Outcome("passed", ""), "d": Outcome("passed", "")}

    found = outcomes.differences(directly, through)

    assert [each.test for each in found] == ["a", "b", "c", "d"]
    assert found[0].through == Outcome("failed", "no")
    assert found[1].through.state == found[3].directly.state == "missing"


def test_outcomes_are_counted() -> None:
    found = {name: Outcome(name, "") for name in ("passed", "failed", "panicked", "skipped")}

    assert outcomes.count(found) == "1 passed, 2 failed, 1 skipped"
