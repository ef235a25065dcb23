"""Mark the tests of the testbed that run pods."""

from __future__ import annotations

import pytest

_RUNNING_PODS = ("test_containerd.py", "test_pods.py", "test_sweeping.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run containers."""
    for item in items:
        if item.path.parent.name == "testbed" and item.path.name in _RUNNING_PODS:
            item.add_marker(pytest.mark.e2e)
