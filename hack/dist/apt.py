"""Debian packages of any release and architecture, from the mirror that this machine uses.

apt gets its own directory, so that the machine's package lists, architecture and packages are
neither used nor changed: any machine with apt and Debian's keys can fetch an arm64 package of
Debian 13.

    <directory>/sources.list  lists/  cache/  status
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCES: Final = Path("/etc/apt")
_MIRROR: Final = re.compile(
    r"(?:^URIs:|^deb(?:\s+\[.*?\])?)\s+(\S+/debian/?)(?:\s|$)", re.MULTILINE
)


def mirror() -> str:
    """Return the URL of the Debian archive in this machine's configuration of apt."""
    files = [_SOURCES / "sources.list", *sorted((_SOURCES / "sources.list.d").glob("*"))]
    for file in files:
        if file.is_file() and (match := _MIRROR.search(file.read_text())):
            return match.group(1).rstrip("/")
    raise SystemExit(f"no Debian archive in {_SOURCES}: add one to the sources of apt")


@dataclass(frozen=True, slots=True)
class Package:
    """A package in the archive; `name` is dpkg's."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A version of a package that the archive has."""

    version: str
    is_security: bool
    """Whether it comes from the security archive."""


class Apt:
    """One release and architecture of Debian."""

    def __init__(self, directory: Path, *, suite: str, architecture: str) -> None:
        """Prepare the directory, and fetch the archive's package lists."""
        self._directory: Final = directory.absolute()
        self._architecture: Final = architecture
        for each in ("lists/partial", "cache/archives/partial", "parts", "preferences"):
            (self._directory / each).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        address = mirror()
        signed = f"[signed-by={KEYRING}]"
        (self._directory / "sources.list").write_text(
            f"deb {signed} {address} {suite} main\n"
            f"deb {signed} {address} {suite}-updates main\n"
            f"deb {signed} {address}-security {suite}-security main\n"
        )
        self._run("apt-get", "update", "--quiet=2")

    def find(self, names: Sequence[str]) -> list[Package]:
        """Return the newest version of each package."""
        shown = self._run("apt-cache", "show", "--no-all-versions", *names)
        found = {}
        for stanza in shown.strip().split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|SHA256): (\S+)$", stanza, re.MULTILINE))
            package = Package(fields["Package"], fields["Version"], fields["SHA256"])
            found[package.name] = package
        return [found[name] for name in names]

    def offers(self, names: Sequence[str]) -> dict[str, list[Offer]]:
        """Return all versions of each package in the suite, its updates and its security archive.

        Raises SystemExit if a package is in none of them.
        """
        found: dict[str, list[Offer]] = {name: [] for name in names}
        for line in self._run("apt-cache", "madison", *names).splitlines():
            name, version, source = (each.strip() for each in line.split("|"))
            if name in found and source.endswith("Packages"):  # not a source package of that name
                found[name].append(Offer(version, is_security="-security/" in source))
        if absent := [name for name, offers in found.items() if not offers]:
            raise SystemExit(f"the archive has no {', '.join(absent)}")
        return found

    def download(self, package: Package, directory: Path) -> Path:
        """Download the package into the empty `directory`; return the file."""
        self._run("apt-get", "download", f"{package.name}={package.version}", cwd=directory)
        return next(directory.glob("*.deb"))

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        where = self._directory
        options = {
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",  # never go on with a part of the lists
            "Dir::Etc::sourcelist": where / "sources.list",
            "Dir::Etc::sourceparts": where / "parts",
            "Dir::Etc::preferencesparts": where / "preferences",
            "Dir::State::lists": where / "lists",
            "Dir::State::status": where / "status",
            "Dir::Cache": where / "cache",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [argv[0], *flags, *argv[1:]], cwd=cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} failed: {done.stderr.strip()}")
        return done.stdout
