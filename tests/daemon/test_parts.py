"""Parts by the settings: what workers are given, what the realizer does, and how all of it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cri_proxy.daemon import parts
from cri_proxy.daemon.initialization import WorkerInit
from cri_proxy.lib import codec
from cri_proxy.model import systems
from cri_proxy.settings import Settings
from cri_proxy.settings.schema import ActivationSettings, PeerSettings
from cri_proxy.store import protocol
from cri_proxy.store.fetch import closures
from cri_proxy.store.nix import closures as nixclosures


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(
        Settings(),
        store=dataclasses.replace(
            Settings().store, root=tmp_path, caches=("https://cache.example",), connections=32
        ),
        peer=PeerSettings(listen="127.0.0.1:1", names=("peers.example:1",)),
    )


def test_a_worker_reads_the_settings_that_it_was_sent(settings: Settings, tmp_path: Path) -> None:
    init = parts.init_of(settings, 4)

    read = codec.decode(codec.encode(init), WorkerInit)

    assert read == init
    assert (read.root, read.store.directory) == (tmp_path, tmp_path / "store")
    assert read.store.caches == ("https://cache.example",)
    assert read.store.peers == protocol.PeerOptions(("peers.example:1",), "127.0.0.1:1")
    assert read.floxhub.git_url == settings.floxhub.git_base


@pytest.mark.parametrize(("size", "each"), [(1, 32), (4, 8), (64, 1)])
def test_connections_are_divided_among_the_workers(
    settings: Settings, size: int, each: int
) -> None:
    options = parts.store_options_of(settings, size)

    assert (options.connections, options.node_connections) == (each, 32)


@pytest.mark.parametrize(
    ("setting", "expected"), [("none", None), ("/etc/own.pem", Path("/etc/own.pem"))]
)
def test_environments_without_certificates_get_those_of_the_settings(
    settings: Settings, setting: str, expected: Path | None
) -> None:
    activation = ActivationSettings(certificates=setting)

    options = parts.options_of(dataclasses.replace(settings, activation=activation))

    assert options.certificates == expected
    assert options.system == systems.of_node()


async def test_parts_are_ready_for_use_and_end_with_their_workers(
    settings: Settings, tmp_path: Path
) -> None:
    async with parts.parts_of(settings) as built:
        (worker,) = built.pool.process_ids  # it has recovered the store
        is_recovered = (tmp_path / "store").is_dir()

    assert is_recovered
    assert built.pool.process_ids == ()
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("kind", "expected"), [("own", closures.Closures), ("nix", nixclosures.NixClosures)]
)
async def test_the_settings_choose_the_source_of_closures(
    settings: Settings, kind: str, expected: type
) -> None:
    class Pool:
        async def call(self, *_: object) -> None:
            """Recover."""

    chosen = dataclasses.replace(settings, store=dataclasses.replace(settings.store, kind=kind))

    source = await parts._store_of(chosen, Pool())  # type: ignore[arg-type]

    assert isinstance(source, expected)
    await source.aclose()
