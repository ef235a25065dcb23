import subprocess
from pathlib import Path

import pytest

from hack.testbed import binaries
from hack.testbed.binaries import Binaries

_SCRIPT = Path(__file__).parents[2] / "hack" / "runtimes.sh"


def test_an_explicit_directory_of_binaries_comes_first(tmp_path) -> None:
    (tmp_path / "runc").write_text("#!/bin/sh\n")
    (tmp_path / "runc").chmod(0o755)

    there, elsewhere = Binaries(directory=tmp_path), Binaries(directory=None)

    assert there.path_of("runc") == tmp_path / "runc"
    assert there.path_of("containerd") == elsewhere.path_of("containerd")


def test_unpacked_binaries_are_found_by_their_series(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CRI_PROXY_CACHE", str(tmp_path))
    (tmp_path / "runtimes" / "2" / "usr" / "bin").mkdir(parents=True)

    assert binaries.unpacked("1.7") is None
    assert binaries.unpacked("2") == Binaries(directory=tmp_path / "runtimes/2/usr/bin")


def test_the_cache_is_in_the_home_directory_by_default(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CRI_PROXY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert binaries.cache() == tmp_path / "cri-proxy"


@pytest.mark.parametrize("series", binaries.SERIES)
def test_an_unpacked_runtime_has_the_version_of_its_series(series: str) -> None:
    found = binaries.unpacked(series)
    if found is None:
        pytest.skip(f"containerd {series} is not unpacked: run hack/runtimes.sh {series}")

    assert found.version().startswith(series)
    assert found.path_of("containerd").parent == found.directory
    subprocess.run([found.path_of("runc"), "--version"], check=True)


def test_the_script_refuses_an_unknown_series() -> None:
    done = subprocess.run([_SCRIPT, "1.2"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "hack/runtimes.sh 1.7" in done.stderr
