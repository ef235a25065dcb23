"""Upkeep: what the daemon does for the node when no pod asks for anything.

Housekeeping removes garbage, prewarming brings pinned environments, auditing reads what is there
again. The three share one worker of the lowest priority, and end with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from cri_proxy.cri.runtime import Runtime
from cri_proxy.daemon import parts
from cri_proxy.lib import workers
from cri_proxy.maintenance import pins
from cri_proxy.maintenance.auditing import Auditing
from cri_proxy.maintenance.collection import Collection
from cri_proxy.maintenance.housekeeping import Housekeeping
from cri_proxy.maintenance.prewarming import Prewarming
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs, meters

_log = logs.of(__name__)


@contextlib.asynccontextmanager
async def of_node(
    settings: Settings, runtime: Runtime, foreground: workers.Pool
) -> AsyncIterator[None]:
    """Do all of it while the context lasts; `foreground` is the pool that pods wait for."""
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(parts.keeping_pool_of(settings))
        collection = Collection(settings.store.root, runtime, pool, lambda: pins.held(settings))
        housekeeping = Housekeeping(settings, collection, pool)
        meters.gauge(
            "cri_proxy.store.size",
            "By",
            "size of the store paths on this node, unpacked",
            lambda: [(housekeeping.measures.store_bytes, {})],
        )
        realizer = await stack.enter_async_context(parts.realizer_with(settings, pool))
        prewarming = Prewarming(settings, foreground, realizer)
        auditing = Auditing(settings, pool)
        tasks = [
            asyncio.create_task(_kept(each), name=each.__qualname__)
            for each in (housekeeping.keep, prewarming.keep, auditing.keep)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _kept(keep: Callable[[], Awaitable[None]]) -> None:
    """Let one of the three do its work; pods do not depend on it, so its fault ends it alone."""
    try:
        await keep()
    except Exception as error:
        _log.error("ended until the next start", what=keep.__qualname__, fault=error)
        raise
