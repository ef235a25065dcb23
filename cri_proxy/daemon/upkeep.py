"""Upkeep: what the daemon does for the node when no pod asks for anything.

Housekeeping removes garbage, prewarming brings pinned environments, auditing reads what is there
again. The three share one worker of the lowest priority, and end with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cri_proxy.cri.runtime import Runtime
from cri_proxy.daemon import parts, pins
from cri_proxy.daemon.collection import Collection
from cri_proxy.daemon.housekeeping import Housekeeping
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import meters


@contextlib.asynccontextmanager
async def of_node(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    """Do all of it while the context lasts."""
    async with parts.keeping_pool_of(settings) as pool:
        collection = Collection(settings.store.root, runtime, pool, lambda: pins.held(settings))
        housekeeping = Housekeeping(settings, collection, pool)
        meters.gauge(
            "cri_proxy.store.size",
            "By",
            "size of the store paths on this node, unpacked",
            lambda: [(housekeeping.measures.store_bytes, {})],
        )
        tasks = [asyncio.create_task(housekeeping.keep(), name="housekeeping")]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
