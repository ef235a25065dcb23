"""crictl and critest of sigs.k8s.io/cri-tools, built by `hack/critools.sh`.

    $CRI_PROXY_CACHE/cri-tools/v1.36.0/{crictl,critest}

Both use kubelet's client library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from hack.testbed import binaries

VERSIONS: Final = ("v1.30.0", "v1.36.0")


def program(name: Literal["crictl", "critest"], version: str) -> Path | None:
    """Return the path of a program of one version, or None if it is not built."""
    found = binaries.cache() / "cri-tools" / version / name
    return found if found.is_file() else None
