"""The outcomes of a run of critest, and the differences of two runs.

They are read from Ginkgo's JSON report. A test is identified by the texts that lead to it, which
are the same in every run; failure messages are kept for display but not compared, because they
contain names and times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PASSED = "passed"
_SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one test; `state` is Ginkgo's."""

    state: str
    failure: str

    @property
    def is_failure(self) -> bool:
        """Whether it neither passed nor was skipped."""
        return self.state not in {_PASSED, _SKIPPED}

    def __str__(self) -> str:
        return f"{self.state}: {self.failure}" if self.failure else self.state


@dataclass(frozen=True, slots=True)
class Difference:
    """A test with a different outcome through the proxy."""

    test: str
    directly: Outcome
    through: Outcome


Outcomes = Mapping[str, Outcome]
_MISSING = Outcome("missing", "the run had no such test")


def load(report: Path) -> Outcomes:
    """Return the outcomes in a report by test."""
    (suite,) = json.loads(report.read_bytes())
    return {
        " ".join((*(each["ContainerHierarchyTexts"] or ()), each["LeafNodeText"])): _outcome(each)
        for each in suite["SpecReports"]
        if each["LeafNodeType"] == "It"
    }


def differences(directly: Outcomes, through: Outcomes) -> list[Difference]:
    """Return the tests with different outcomes, by name, including tests that one run lacks."""
    found = []
    for test in sorted({*directly, *through}):
        ours, theirs = through.get(test, _MISSING), directly.get(test, _MISSING)
        if ours.state != theirs.state:
            found.append(Difference(test, theirs, ours))
    return found


def count(outcomes: Outcomes) -> str:
    """Return in words how many tests passed, failed and were skipped."""
    failed = sum(each.is_failure for each in outcomes.values())
    passed = sum(each.state == _PASSED for each in outcomes.values())
    return f"{passed} passed, {failed} failed, {len(outcomes) - passed - failed} skipped"


def _outcome(spec: Mapping[str, object]) -> Outcome:
    failure = spec.get("Failure")
    message = str(failure.get("Message", "")) if isinstance(failure, dict) else ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return Outcome(str(spec["State"]), " ".join(lines)[:300])
