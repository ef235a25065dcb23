"""Systems: what lockfiles call the kind of machine that this node is."""

from __future__ import annotations

import platform

from cri_proxy import errors

_MACHINES = {"x86_64": "x86_64-linux", "aarch64": "aarch64-linux", "arm64": "aarch64-linux"}


def of_node() -> str:
    """Return this node's system, such as `x86_64-linux`; raise RequestInvalid for an unknown."""
    machine = platform.machine()
    try:
        return _MACHINES[machine]
    except KeyError:
        raise errors.RequestInvalid(
            f"this node's processor is {machine}, and FloxHub environments are locked for "
            "x86_64 and aarch64 only: run cri-proxy on such a node"
        ) from None
