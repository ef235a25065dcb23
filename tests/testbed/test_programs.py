"""Kubernetes' programs: missing ones are found, and go.mod pins one version of everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hack.cluster import programs

GO_MOD = Path(programs.__file__).with_name("go.mod")


def test_modules_of_kubernetes_repository_have_its_version() -> None:
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (v\S+)$", GO_MOD.read_text(), re.MULTILINE)

    wanted = programs.version().replace("v1.", "v0.", 1)
    assert replaced
    assert {version for _, _, version in replaced} == {wanted}
    assert all(name == by for name, by, _ in replaced)


def test_everything_is_missing_from_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert set(programs.missing()) >= set(programs.BUILT)


def test_a_program_in_the_cache_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = tmp_path / "cri-proxy" / "kubernetes" / programs.version() / "kubelet"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)

    assert programs.path_of("kubelet") == program
    assert "kubelet" not in programs.missing()
