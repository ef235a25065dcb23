import os
import subprocess
import sys
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_NEEDS_PODS = "tests/testbed/test_pods.py::test_a_container_runs_writes_and_exits"


def _run(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one test that needs pods, with an empty PATH."""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", _NEEDS_PODS],
        cwd=_REPOSITORY,
        env={**environment, "PATH": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_program_skips_tests_with_the_reason(tmp_path: Path) -> None:
    done = _run(tmp_path)

    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
    assert "the program containerd" in done.stdout
    assert "run hack/prerequisites.sh test as root" in done.stdout


def test_a_missing_program_fails_in_ci(tmp_path: Path) -> None:
    done = _run(tmp_path, CI="1")

    assert done.returncode == 1, done.stdout
    assert "the program containerd" in done.stdout


@pytest.mark.parametrize("argument", ["nonsense", ""])
def test_the_script_refuses_an_unknown_set(argument: str) -> None:
    script = _REPOSITORY / "hack" / "prerequisites.sh"
    done = subprocess.run([script, argument], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "hack/prerequisites.sh demo" in done.stderr
