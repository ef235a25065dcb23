"""`python -m hack.dist.audit`: compare the pinned Debian packages with what Debian offers today.

For each package of inputs.json, the newest version of the suite, its updates and its security
archive is looked up on the mirror in this machine's apt configuration. The program exits with 1 if
any package is superseded, and with 2 if it could not find out: a check that did not run is no
success. `python -m hack.dist --renew` moves the pins.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.dist import apt, architectures, inputs


@dataclass(frozen=True, slots=True)
class Superseded:
    """A pinned package of which the archive has a newer version."""

    architecture: str
    pinned: apt.Package
    newest: apt.Offer

    def __str__(self) -> str:
        """Return the line of the report."""
        kind = "SECURITY UPDATE" if self.newest.is_security else "update"
        versions = f"{self.pinned.version} -> {self.newest.version}"
        return f"{kind}: {self.architecture}: {self.pinned.name} {versions}"


def main() -> int:
    """Report superseded packages of all architectures; return the exit code."""
    superseded: list[Superseded] = []
    pinned = 0
    try:
        with tempfile.TemporaryDirectory(prefix="audit-") as directory:
            for each in architectures.ALL.values():
                packages = inputs.load(each).debian
                archive = apt.Apt(
                    Path(directory) / each.debian, suite=inputs.SUITE, architecture=each.debian
                )
                offers = archive.offers([package.name for package in packages])
                superseded += compare(each.name, packages, offers)
                pinned += len(packages)
    except (SystemExit, OSError) as error:
        print(f"audit-parts: NOT CHECKED: {error}", file=sys.stderr)
        return 2
    for line in superseded:
        print(f"audit-parts: {line}")
    print(f"audit-parts: {len(superseded)} of {pinned} pinned packages are superseded", end="")
    print("; renew them: python -m hack.dist --renew" if superseded else "")
    return 1 if superseded else 0


def compare(
    architecture: str, packages: Sequence[apt.Package], offers: Mapping[str, Sequence[apt.Offer]]
) -> list[Superseded]:
    """Return the packages that are older than an offer, each with the newest one.

    Security fixes are often followed by a point release with a higher version: a package counts as a
    security update if any newer version of it comes from the security archive.
    """
    found = []
    for package in packages:
        newer = [each for each in offers[package.name] if is_older(package.version, each.version)]
        if newer:
            newest = newer[0]
            for each in newer[1:]:
                newest = each if is_older(newest.version, each.version) else newest
            is_security = any(each.is_security for each in newer)
            found.append(Superseded(architecture, package, apt.Offer(newest.version, is_security)))
    return found


def is_older(one: str, other: str) -> bool:
    """Return whether Debian's version `one` comes before `other`."""
    argv = ["dpkg", "--compare-versions", one, "lt", other]
    return subprocess.run(argv, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
