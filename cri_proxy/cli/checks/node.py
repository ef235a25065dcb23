"""Checks of the node itself: processor, kernel, user, certificate authorities."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final

from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.lib import certificates
from cri_proxy.settings import schema

_OLDEST_KERNEL: Final = (5, 4)


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group."""
    return [
        Check("node", partial(system, platform.machine(), platform.release(), schema.SHELLS)),
        Check("user", partial(user, os.geteuid())),
        Check("certificates", partial(authorities, settings.activation.certificates)),
    ]


def system(machine: str, release: str, systems: Collection[str]) -> Finding:
    """Check the processor and the kernel."""
    found = f"Linux {release} on {machine}"
    if f"{machine}-linux" not in systems:
        return findings.fail(
            found, f"FloxHub only has environments for {' and '.join(systems)}: use such a node"
        )
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_KERNEL:
        oldest = ".".join(map(str, _OLDEST_KERNEL))
        return findings.warn(found, f"kernels older than {oldest} are not tested: update it")
    return findings.ok(found)


def user(number: int) -> Finding:
    """Check that the user is root, as the daemon is."""
    if number == 0:
        return findings.ok("root")
    return findings.warn(f"uid {number}", "run the check as root, like the daemon")


def authorities(certificate: str) -> Finding:
    """Check the certificate bundle for environments that have none of their own."""
    match certificate:
        case "none":
            return findings.ok("not provided to environments (activation.certificates is none)")
        case "auto":
            bundle = certificates.bundle()
            if bundle is None:
                return findings.warn(
                    "this node has no certificate bundle in a known location",
                    "install ca-certificates, or set activation.certificates",
                )
            return findings.ok(str(bundle))
        case path:
            if not Path(path).is_file():
                return findings.fail(f"{path} does not exist", "correct activation.certificates")
            return findings.ok(path)
