"""The containerd and runc that a testbed runs: the system's, or others unpacked beside it.

`hack/runtimes.sh` unpacks Debian packages of other versions, once for all working trees:

    $CRI_PROXY_CACHE/runtimes/1.7/usr/bin/     containerd 1.7, for use with the system's runc
    $CRI_PROXY_CACHE/runtimes/2/usr/bin/       containerd 2 and a runc with user namespaces

TESTBED_BINARIES names the directory of programs for a whole test run; a single test can use
`unpacked("2")`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SERIES: Final = ("1.7", "2")


def _directory_of_environment() -> Path | None:
    value = os.environ.get("TESTBED_BINARIES")
    return Path(value) if value else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs of one containerd; `directory` is searched before PATH."""

    directory: Path | None = field(default_factory=_directory_of_environment)

    def path_of(self, name: str) -> Path | None:
        """Return the path of the program, or None."""
        found = shutil.which(name, path=self.search_path)
        return None if found is None else Path(found)

    @property
    def search_path(self) -> str:
        """The PATH for containerd, which finds its shims there."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
        return path if self.directory is None else f"{self.directory}:{path}"

    def version(self) -> str:
        """Return the version of containerd, for example `1.6.20~ds1`."""
        program = self.path_of("containerd")
        assert program is not None
        printed = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True
        ).stdout
        match = re.search(r" v?(\d+\.\S+)", printed)
        if match is None:
            raise RuntimeError(f"containerd --version printed {printed!r}, which has no version")
        return match[1]

    def major(self) -> int:
        """Return the major version, for example 2, which supports user namespaces."""
        return int(self.version().split(".")[0])


def unpacked(series: str) -> Binaries | None:
    """Return the programs of a series unpacked by `hack/runtimes.sh`, or None."""
    directory = cache() / "runtimes" / series / "usr" / "bin"
    return Binaries(directory=directory) if directory.is_dir() else None


def cache() -> Path:
    """Return the directory for programs kept between runs and for all working trees."""
    named = os.environ.get("CRI_PROXY_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cri-proxy"
