"""The runtime's socket: the one that kubelet used before the proxy, or a well-known one."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from cri_proxy import errors
from cri_proxy.node.root import Root

KNOWN: Final = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
)


def socket_of(endpoint: str) -> str:
    """Return the path of a kubelet endpoint; raise RequestInvalid if it is not a unix socket."""
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        raise errors.RequestInvalid(
            f"kubelet uses {endpoint}, which is not a unix socket: the proxy needs one"
        )
    # /var/run is a link to /run; the proxy's settings compare sockets by name.
    return re.sub(r"^/var/run/", "/run/", str(PurePosixPath(path)))


def find(root: Root, endpoint: str, *, ours: str, remembered: str | None) -> str:
    """Return the socket of the runtime behind the proxy at `ours`.

    `endpoint` is kubelet's current one, `remembered` what an earlier installation found.
    """
    current = socket_of(endpoint)
    if current != ours:
        return current
    if remembered is not None:
        return remembered
    for each in KNOWN:
        if root.at(each).exists():
            return each
    raise errors.NotFound(
        f"kubelet uses the proxy already, and there is no runtime at {', '.join(KNOWN)}: "
        "set runtime.endpoint"
    )
