"""The first message to each program that the daemon starts."""

from __future__ import annotations

from pathlib import Path

from cri_proxy.daemon import parts
from cri_proxy.daemon.initialization import PeerServerInit, WorkerInit
from cri_proxy.lib import codec
from cri_proxy.settings.schema import PeerSettings, Settings, StoreSettings

SETTINGS = Settings(
    store=StoreSettings(root=Path("/node"), connections=32, ca_file=Path("/ca.pem")),
    peer=PeerSettings(names=("peers",), listen="10.0.0.1:1"),
)


def test_worker_receives_what_the_settings_say() -> None:
    init = parts.init_of(SETTINGS, 4)

    assert codec.decode(codec.encode(init), WorkerInit) == init
    assert init.root == Path("/node")
    assert init.store.directory == Path("/node/store")
    assert (init.store.connections, init.store.node_connections) == (8, 32)
    assert init.store.peers.names == ("peers",)
    assert init.floxhub.directory == Path("/node/floxhub")


def test_peer_server_receives_the_workers_options() -> None:
    init = PeerServerInit(parts.store_options_of(SETTINGS, 1), SETTINGS.log, socket=7)

    assert codec.decode(codec.encode(init), PeerServerInit) == init
