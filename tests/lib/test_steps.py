"""Steps are told in the order of their ends, whatever became of them."""

from __future__ import annotations

import json

import pytest

from cri_proxy.lib.steps import Steps


def test_steps_have_name_beginning_and_end() -> None:
    steps = Steps()
    with steps("outer"), steps("inner"):
        pass

    (inner, outer) = json.loads(json.dumps(steps.taken))

    assert (inner[0], outer[0]) == ("inner", "outer")
    assert outer[1] <= inner[1] <= inner[2] <= outer[2]


def test_a_step_that_failed_was_taken() -> None:
    steps = Steps()
    with pytest.raises(ValueError, match="broke"), steps("work"):
        raise ValueError("broke")

    assert [name for name, _, _ in steps.taken] == ["work"]
