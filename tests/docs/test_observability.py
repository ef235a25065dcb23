"""docs/observability.md and docs/operations.md document every span, metric and log line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "observability.md").read_text()
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
INSTRUMENTS = frozenset(("meters.counter", "meters.histogram", "registry.gauge"))
LEVELS = frozenset(("info", "warning", "error"))


def calls() -> Iterator[tuple[str, str]]:
    """Yield the last name of every function called in the program with a text, and that text."""
    for source in sorted((REPOSITORY / "cri_proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            first = node.args[0]
            if isinstance(first, ast.Tuple) and first.elts:  # a step that is over
                first = first.elts[0]
            if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
                continue
            if isinstance(node.func, ast.Attribute):
                owner = node.func.value
                of = owner.id if isinstance(owner, ast.Name) else ""
                yield f"{of}.{node.func.attr}", first.value
            elif isinstance(node.func, ast.Name):
                yield node.func.id, first.value


def test_every_span_is_documented() -> None:
    names = {
        text
        for name, text in calls()
        if name in ("spans.span", "spans.of_function", "spans.record", "timings")
    } | {"pod.startup", "pod.stop"}

    assert len(names) >= 15
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_metric_is_documented() -> None:
    """Each under the one name that code, page, dashboard and alerts have for it."""
    names = [text for name, text in calls() if name in INSTRUMENTS]

    assert len(names) >= 22
    assert len(names) == len(set(names))
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_line_of_the_log_is_documented() -> None:
    """Except for debug lines, which are for readers of the code."""
    events = {
        text
        for name, text in calls()
        if name.startswith(("_log.", "_logger.")) and name.rpartition(".")[2] in LEVELS
    }

    pages = f"{PAGE}\n{OPERATIONS}"
    assert len(events) >= 30
    assert {event for event in events if shown(event) not in pages} == set()


def shown(event: str) -> str:
    """Return an event up to its first placeholder."""
    return re.split(r"\s*(?:\w+=)?%[sd]", event)[0].rstrip(" :")
