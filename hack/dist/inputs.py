"""The inputs of the tarballs: pinned in inputs.json, fetched once, verified by their SHA-256.

    inputs.json
        architectures/<name>/debian     the interpreter, its standard library and the libraries
        architectures/<name>/wheels     pyproject.toml's dependencies, as in constraints.txt
        compilers/<name>                the wheel of the launcher's compiler, by the architecture
                                        of the machine that builds

`renew` pins the current versions of Debian and of the package index; a build uses only the pinned
ones. Downloads are kept in ~/.cache/cri-proxy/dist under their digests. Debian's archive only has
the newest versions: when a pinned one has disappeared, run `renew` and publish a new release.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hack.dist import apt, architectures
from hack.dist.architectures import Architecture

REPOSITORY: Final = Path(__file__).parents[2]
LOCK: Final = Path(__file__).with_name("inputs.json")
SUITE: Final = "trixie"
PYTHON: Final = "3.13"
"""The suite's Python."""
DEBIAN: Final = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libc6",
    "libgcc-s1",  # of grpcio
    "libstdc++6",  # of grpcio
    "gcc-14-base",  # the licence of both
    "libexpat1",  # of the interpreter
    "zlib1g",  # of the interpreter
    "libssl3t64",  # ssl and hashlib
    "libzstd1",  # of libssl3t64
    "libffi8",  # ctypes
    "libbz2-1.0",  # bz2
    "liblzma5",  # lzma
    "libuuid1",  # uuid
    "base-files",  # the licence texts that the copyright files of the others refer to
)
_COMPILER: Final = "ziglang==0.17.1"  # cross-compiles C between both architectures
_GLIBC: Final = range(
    41, 4, -1
)  # minor versions of manylinux tags that the suite's C library can run


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel in the package index."""

    file: str
    sha256: str

    @property
    def name(self) -> str:
        """Return the project's name, as in the file name."""
        return self.file.split("-")[0]

    @property
    def project(self) -> str:
        """Return the project's name as the package index normalizes it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()

    @property
    def version(self) -> str:
        """Return the version."""
        return self.file.split("-")[1]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one tarball besides this repository."""

    debian: Sequence[apt.Package]
    wheels: Sequence[Wheel]


def load(architecture: Architecture) -> Inputs:
    """Return the inputs that inputs.json has for the architecture."""
    lock = json.loads(LOCK.read_text())["architectures"][architecture.name]
    return Inputs(
        debian=[apt.Package(**each) for each in lock["debian"]],
        wheels=[Wheel(**each) for each in lock["wheels"]],
    )


def compiler(host: Architecture) -> Wheel:
    """Return the compiler that inputs.json has for a machine of this architecture."""
    return Wheel(**json.loads(LOCK.read_text())["compilers"][host.name])


class Fetcher:
    """Downloads inputs for one architecture."""

    def __init__(self, architecture: Architecture) -> None:
        """Download nothing yet."""
        self._architecture: Final = architecture

    @cached_property
    def _apt(self) -> apt.Apt:
        name = f"apt-{SUITE}-{self._architecture.debian}"
        return apt.Apt(_cache() / name, suite=SUITE, architecture=self._architecture.debian)

    def debian(self, package: apt.Package) -> Path:
        """Return the .deb file of the package."""
        return _kept(
            f"{package.name}.deb",
            package.sha256,
            lambda directory: self._apt.download(package, directory),
        )

    def wheel(self, wheel: Wheel) -> Path:
        """Return the file of the wheel."""

        def download(directory: Path) -> Path:
            _pip(self._architecture, directory, "--no-deps", f"{wheel.name}=={wheel.version}")
            return directory / wheel.file

        return _kept(wheel.file, wheel.sha256, download)

    def renewed(self) -> dict[str, Any]:
        """Return this architecture's part of inputs.json with the current versions."""
        with tempfile.TemporaryDirectory() as directory:
            project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
            constraint = ("--constraint", str(REPOSITORY / "hack/constraints.txt"))
            _pip(self._architecture, Path(directory), *constraint, *project["dependencies"])
            wheels = [Wheel(each.name, _digest(each)) for each in sorted(Path(directory).iterdir())]
        return {
            "debian": [asdict(each) for each in self._apt.find(DEBIAN)],
            "wheels": [asdict(each) for each in wheels],
        }


def renew() -> None:
    """Write inputs.json with the current versions."""
    compilers = {}
    for architecture in architectures.ALL.values():
        with tempfile.TemporaryDirectory() as directory:
            _pip(architecture, Path(directory), "--no-deps", _COMPILER)
            (wheel,) = Path(directory).iterdir()
            compilers[architecture.name] = asdict(Wheel(wheel.name, _digest(wheel)))
    lock = {
        "architectures": {
            each.name: Fetcher(each).renewed() for each in architectures.ALL.values()
        },
        "compilers": compilers,
    }
    LOCK.write_text(json.dumps(lock, indent=1) + "\n")


def _kept(name: str, sha256: str, fetch: Callable[[Path], Path]) -> Path:
    """Return the file in the cache; download it if it is missing."""
    place = _cache() / sha256 / re.sub(r"[^\w.+-]", "_", name)
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        fetched = fetch(Path(directory))
        if _digest(fetched) != sha256:
            raise SystemExit(f"the SHA-256 of {fetched.name} differs from inputs.json")
        fetched.rename(place)
    return place


def _pip(architecture: Architecture, directory: Path, *arguments: str) -> None:
    """Download wheels for the architecture and the suite's Python into the directory."""
    name = architecture.name
    platforms = [f"manylinux_2_{minor}_{name}" for minor in _GLIBC]
    platforms += [f"manylinux2014_{name}", f"manylinux2010_{name}", f"manylinux1_{name}", "any"]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    argv += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    argv += [f"--abi=cp{PYTHON.replace('.', '')}", "--abi=abi3", "--abi=none"]
    argv += [f"--platform={each}" for each in platforms]
    done = subprocess.run([*argv, f"--dest={directory}", *arguments], check=False)
    if done.returncode:
        raise SystemExit("pip could not download the wheels: see its output above")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "cri-proxy/dist"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
