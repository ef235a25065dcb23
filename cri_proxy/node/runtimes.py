"""The runtime's socket: what kubelet used before us, or where runtimes have it."""

from __future__ import annotations

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
    """Return the path in an endpoint such as kubelet has it; raise RequestInvalid for no socket."""
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        raise errors.RequestInvalid(
            f"kubelet speaks to {endpoint}, which is no unix socket: the proxy needs one"
        )
    # /var/run is /run on every node, and the proxy's settings know one name for a socket.
    return str(PurePosixPath(path)).replace("/var/run/", "/run/", 1)


def find(root: Root, endpoint: str, *, ours: str, remembered: str | None) -> str:
    """Return the socket of the runtime behind the proxy at `ours`.

    `endpoint` is what kubelet is told now, `remembered` what an earlier installation found.
    """
    told = socket_of(endpoint)
    if told != ours:
        return told
    if remembered is not None:
        return remembered
    for each in KNOWN:
        if root.at(each).exists():
            return each
    raise errors.NotFound(
        f"kubelet speaks to the proxy already, and no runtime has a socket at {', '.join(KNOWN)}: "
        "set runtime.endpoint"
    )
