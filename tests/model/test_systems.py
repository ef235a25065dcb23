"""What lockfiles call the machine that a node is."""

from __future__ import annotations

import platform

import pytest

from cri_proxy import errors
from cri_proxy.model import systems


@pytest.mark.parametrize(
    ("machine", "system"),
    [
        ("x86_64", "x86_64-linux"),
        ("aarch64", "aarch64-linux"),
        ("arm64", "aarch64-linux"),
    ],
)
def test_machine_has_the_name_that_lockfiles_use(
    monkeypatch: pytest.MonkeyPatch, machine: str, system: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert systems.of_node() == system


def test_other_machine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    with pytest.raises(errors.RequestInvalid, match="riscv64"):
        systems.of_node()
