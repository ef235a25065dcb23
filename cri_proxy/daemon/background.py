"""Maintenance loops of the daemon: garbage collection, prewarming of pinned environments, audits.

They share one worker of the lowest priority and end with the daemon. Pods do not depend on them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from cri_proxy.cri.runtime import Runtime
from cri_proxy.daemon import parts
from cri_proxy.lib import workers
from cri_proxy.lib.meters import Registry
from cri_proxy.maintenance import auditing, pins
from cri_proxy.maintenance.auditing import Auditing
from cri_proxy.maintenance.collection import Collection
from cri_proxy.maintenance.housekeeping import Housekeeping
from cri_proxy.maintenance.prewarming import Prewarming
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs

_log = logs.of(__name__)


@contextlib.asynccontextmanager
async def of_node(
    settings: Settings, runtime: Runtime, foreground: workers.Pool, registry: Registry
) -> AsyncIterator[None]:
    """Run all three while the context lasts; `foreground` is the pool that pods wait for."""
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(parts.keeping_pool_of(settings))
        collection = Collection(settings.store.root, runtime, pool, lambda: pins.held(settings))
        housekeeping = Housekeeping(settings, collection, pool)
        realizer = await stack.enter_async_context(parts.realizer_with(settings, pool))
        prewarming = Prewarming(settings, foreground, realizer)
        registry.gauge(
            "cri_proxy_store_size_bytes",
            "Unpacked size of the store paths on this node.",
            lambda: housekeeping.store_bytes,
        )
        registry.gauge(
            "cri_proxy_store_damaged",
            "Store paths in quarantine, which are fetched again before they are used.",
            lambda: auditing.quarantined(settings.store.root),
        )
        registry.gauge(
            "cri_proxy_pins",
            "Pinned environments by state.",
            prewarming.states,
            label="cri_proxy_state",
        )
        loops = (housekeeping.run, prewarming.run, Auditing(settings, pool).run)
        tasks = [asyncio.create_task(_run(each), name=each.__qualname__) for each in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _run(loop: Callable[[], Awaitable[None]]) -> None:
    """Run one loop; a fault in it ends no other."""
    try:
        await loop()
    except Exception as error:
        _log.error("ended until the next start", what=loop.__qualname__, fault=error)
        raise
