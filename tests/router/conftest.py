"""What the tests of the core share."""

from __future__ import annotations

import pytest

from hack.testbed.http2 import Triangle


@pytest.fixture
def triangle() -> Triangle:
    """Three peers that have exchanged their SETTINGS."""
    made = Triangle()
    made.settle()
    return made
