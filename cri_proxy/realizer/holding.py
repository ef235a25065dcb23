"""Leases of the daemon's event loop on what it is about to use, against the garbage collector.

`realization` holds the store paths that a realization relies on, from before it looks for the first
until its view is committed; `environment` holds an environment until the runtime has a container in
it. The locks themselves are in `disk.leases`. Files are created in threads, since creating one may
block on a busy disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cri_proxy.lib import locks
from cri_proxy.store.disk import leases

CLAIMED_SECONDS: Final = 0.02


@contextlib.asynccontextmanager
async def realization(running: leases.Realizations) -> AsyncIterator[None]:
    """Hold the store paths of a realization; given up however the realization ends."""
    beginning = asyncio.create_task(asyncio.to_thread(running.begin))
    try:
        lease = await asyncio.shield(beginning)
    except asyncio.CancelledError:
        beginning.add_done_callback(_release)  # the thread goes on, and has a lease in the end
        raise
    try:
        yield
    finally:
        await asyncio.to_thread(lease.release)


async def environment(place: Path) -> locks.Lock | None:
    """Hold the environment at `place`; None when it is gone.

    Waits while a collection of garbage asks the runtime whether the environment is in use.
    """
    while True:
        try:
            lease = leases.share(place)
        except FileNotFoundError:
            return None
        if lease is not None:
            return lease
        await asyncio.sleep(CLAIMED_SECONDS)


def _release(beginning: asyncio.Task[locks.Lock]) -> None:
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().release()
