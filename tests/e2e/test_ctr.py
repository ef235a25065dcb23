"""containerd's own client, whose services the proxy knows nothing of: it notices nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hack.bench.relay import ctr
from hack.testbed.containerd import Containerd
from hack.testbed.proxy import Proxy
from tests.e2e.conftest import ON_BOTH_RUNTIMES


@ON_BOTH_RUNTIMES
def test_ctr_gets_the_same_responses_as_without_the_proxy(
    tmp_path: Path, containerd: Containerd
) -> None:
    offline = {"floxhub": {"url": "http://127.0.0.1:9"}}
    with Proxy(tmp_path / "proxy", containerd.socket, offline) as proxy:
        session = ctr.faults(containerd.binaries, containerd.socket, proxy.socket, tmp_path)
        faults = asyncio.run(session)

    assert faults == []
