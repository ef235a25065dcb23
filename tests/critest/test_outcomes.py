"""Reading and comparing critest's reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hack.critest import outcomes
from hack.critest.outcomes import Outcome


def spec(
    text: str, state: str, *parents: str, kind: str = "It", message: str = ""
) -> dict[str, Any]:
    """Return a test in Ginkgo's format, which has null instead of an empty list of parents."""
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


def test_a_test_is_identified_by_the_texts_that_lead_to_it(tmp_path: Path) -> None:
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


def test_another_failure_message_is_no_difference() -> None:
    directly = {"a": Outcome("failed", "pod-1 is unavailable"), "b": Outcome("passed", "")}
    through = {"a": Outcome("failed", "pod-2 is unavailable"), "b": Outcome("passed", "")}

    assert outcomes.differences(directly, through) == []


def test_another_state_and_a_missing_test_are_differences() -> None:
    directly = {"a": Outcome("passed", ""), "b": Outcome("passed", ""), "c": Outcome("skipped", "")}
    through = {"a": Outcome("failed", "no"), "c": Outcome("passed", ""), "d": Outcome("passed", "")}

    found = outcomes.differences(directly, through)

    assert [each.test for each in found] == ["a", "b", "c", "d"]
    assert found[0].through == Outcome("failed", "no")
    assert found[1].through.state == found[3].directly.state == "missing"


def test_outcomes_are_counted() -> None:
    found = {name: Outcome(name, "") for name in ("passed", "failed", "panicked", "skipped")}

    assert outcomes.count(found) == "1 passed, 2 failed, 1 skipped"
