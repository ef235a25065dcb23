"""A resolution: the answer to what a reference means, as it goes from a worker to the daemon.

Apart from `hub`, which makes it, so that the daemon can read one without loading git.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_proxy.model import references


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which generation a reference means, and where its lockfile lies.

    `reference` is pinned; `revision` is the commit, for audit; `lock_digest` is the SHA-256 of the
    file in hexadecimal; `is_stale` when FloxHub could not be asked now.
    """

    reference: references.Reference
    revision: str
    lock_digest: str
    lockfile: Path
    is_stale: bool = False


def wire_of(resolution: Resolution) -> dict[str, Any]:
    """Return a resolution as JSON."""
    return {
        "reference": str(resolution.reference),
        "revision": resolution.revision,
        "lock_digest": resolution.lock_digest,
        "lockfile": str(resolution.lockfile),
        "is_stale": resolution.is_stale,
    }


def of_wire(wire: Mapping[str, Any]) -> Resolution:
    """Return the resolution that `wire_of` wrote."""
    return Resolution(
        reference=references.parse(wire["reference"]),
        revision=wire["revision"],
        lock_digest=wire["lock_digest"],
        lockfile=Path(wire["lockfile"]),
        is_stale=wire["is_stale"],
    )
