"""Init messages: what the daemon sends first to the programs that it starts.

They are apart from `worker` and `peerserver`, which load what the daemon does not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cri_proxy.floxhub.protocol import HubOptions
from cri_proxy.settings.schema import LogSettings
from cri_proxy.store.protocol import StoreOptions


@dataclass(frozen=True, slots=True)
class WorkerInit:
    """What a worker builds its jobs from; `runtime` is the socket of the node's runtime."""

    root: Path
    runtime: Path
    log: LogSettings
    store: StoreOptions
    floxhub: HubOptions


@dataclass(frozen=True, slots=True)
class PeerServerInit:
    """What the peer server needs; `socket` is the descriptor of a listening socket."""

    store: StoreOptions
    log: LogSettings
    socket: int
