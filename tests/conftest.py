"""What all tests may ask for: the machine's prerequisites and the shared private containerd.

A test that needs a program or right that this machine lacks is skipped with the reason; where the
variable CI is set it fails instead, so that nothing is left untested unnoticed.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from hack.testbed import binaries, disks, environments, images
from hack.testbed.binaries import Binaries
from hack.testbed.containerd import Containerd, lacks
from hack.testbed.environments import Published
from hack.testbed.pods import Pods

REPOSITORY = Path(__file__).parents[1]
_INSTALL = "run hack/prerequisites.sh test"


def pytest_configure() -> None:
    """Have programs that tests start be as elsewhere, whatever the tests were started from.

    They can be interrupted: a shell has its background jobs ignore SIGINT, and whatever they start
    inherits that. And hundreds of them need not compile the same modules anew.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that run pods last: what is broken further down is better told there."""
    items.sort(key=lambda item: "e2e" in item.keywords)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold the markers to what they say."""
    if item.get_closest_marker("e2e") is not None and (missing := lacks()):
        _lack(f"this machine lacks {'; '.join(missing)}: {_INSTALL} as root")
    if item.get_closest_marker("nix") is not None:
        _require("nix", "nix-store")
    if item.get_closest_marker("disk") is not None and (missing := disks.lacks()):
        _lack(f"this machine lacks {missing}, or the right to use it: run the tests as root")


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """A private containerd, shared by the tests of one worker: none of them may stop it."""
    if missing := lacks():
        _lack(f"this machine lacks {'; '.join(missing)}: {_INSTALL} as root")
    with Containerd() as running:
        yield running


@pytest.fixture(scope="session")
def newest_binaries() -> Binaries:
    """The programs of containerd 2, with a runc that knows user namespaces."""
    chosen = Binaries()
    if lacks(chosen) or chosen.major() < 2:
        found = binaries.unpacked("2")
        if found is None:
            _lack("no containerd 2 is here: run hack/runtimes.sh 2, which unpacks one")
        chosen = found
    if missing := lacks(chosen):
        _lack(f"this machine lacks {'; '.join(missing)}: {_INSTALL} as root")
    return chosen


@pytest.fixture(scope="session")
def newest_containerd(newest_binaries: Binaries) -> Iterator[Containerd]:
    """A private containerd 2, shared by the tests of one worker: none of them may stop it."""
    with Containerd(binaries=newest_binaries) as running:
        yield running


@pytest.fixture
def pods(containerd: Containerd) -> Iterator[Pods]:
    """A kubelet's hands on that containerd; pods that the test leaves are removed."""
    with containerd.pods() as client:
        yield client


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A binary cache with the packages that most environments are made of."""
    if images.static_busybox() is None:
        _lack(f"this machine lacks a statically linked busybox: {_INSTALL}")
    return environments.published(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def nix() -> Path:
    """The `nix` program; `nix-store` and the others are beside it."""
    return _require("nix", "nix-store")


@pytest.fixture(scope="session")
def tarball() -> Path:
    """Return this machine's tarball."""
    found = sorted(REPOSITORY.glob(f"dist/cri-proxy-*-linux-{platform.machine()}.tar.gz"))
    if len(found) != 1:
        _lack("dist/ has no tarball for this machine: make dist")
    return found[0]


@pytest.fixture(scope="session")
def tree(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked tarball."""
    directory = tmp_path_factory.mktemp("tree")
    subprocess.run(["tar", "-xzf", tarball, "-C", directory], check=True)
    (unpacked,) = directory.iterdir()
    return unpacked


@pytest.fixture(scope="session")
def newer(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another release, by its digest."""
    directory = tmp_path_factory.mktemp("newer") / tree.name
    shutil.copytree(tree, directory, symlinks=True, copy_function=os.link)
    (directory / "CHANGES").write_text("a newer one\n")
    return directory


def _require(*programs: str) -> Path:
    """Return where the first of the programs is; all of them are."""
    found = [shutil.which(program) for program in programs]
    if None in found:
        _lack(f"this machine lacks one of the programs {', '.join(programs)}: {_INSTALL}")
    return Path(str(found[0]))


def _lack(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
