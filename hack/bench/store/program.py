"""Our side of the store benchmark: the daemon's realizer as a program.

    python -m hack.bench.store.program SETTINGS

SETTINGS is JSON: {"store": {...}, "floxhub": {...}} as in the configuration file. The program
prints `ready`, and then executes each line of its input and answers with a line of JSON:

    {"fetch": [path, ...]}        fetch the closure of these roots
    {"view": name}                make the view of the closure fetched last
    {"realize": "owner/name"}     realize an environment

`seconds` is the duration; `peaks` is the peak memory so far in MiB of this process and of each
worker, `computed` the processor time that they have used so far, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from cri_proxy.daemon import parts
from cri_proxy.lib import workers
from cri_proxy.model import references, storepaths
from cri_proxy.model.progress import Progress
from cri_proxy.realizer import protocol
from cri_proxy.realizer.realizer import Realizer
from cri_proxy.settings.schema import (
    FloxHubSettings,
    LogSettings,
    Settings,
    StoreSettings,
)
from cri_proxy.store.disk import local, views
from cri_proxy.store.fetch import closures
from hack.bench import processes


@dataclass(slots=True)
class _Node:
    """The parts of the daemon that the program uses."""

    root: Path
    pool: workers.Pool
    store: closures.Closures
    realizer: Realizer
    closure: tuple[storepaths.StorePath, ...] = field(default=())

    async def fetch(self, roots: list[str]) -> None:
        """Fetch a closure."""
        parsed = [storepaths.parse(each) for each in roots]
        records = await self.store.realize(parsed, Progress())
        self.closure = tuple(each.path for each in records)

    async def view(self, name: str) -> None:
        """Make the view of the closure."""
        place = views.Views(self.root / "environments", local.Store(self.root / "store"))
        with place.stage(name, lambda: None) as stage:
            stage.link(self.closure)
            stage.commit()

    async def realize(self, reference: str) -> None:
        """Realize an environment."""
        await self.realizer.begin(references.parse(reference)).wait()

    @property
    def processes(self) -> tuple[int, ...]:
        """The ids of this process and of its workers."""
        return (os.getpid(), *self.pool.process_ids)


@contextlib.asynccontextmanager
async def _node(settings: Settings) -> AsyncIterator[_Node]:
    """Build the parts as the daemon does."""
    size = settings.store.workers_on(len(os.sched_getaffinity(0)))
    init = parts.init_of(settings, size)
    pool = workers.Pool(parts.WORKER_ARGV, size=size, settings=init, kept=1)
    try:
        pool.warm()  # as the realizer does while it waits for FloxHub
        await asyncio.gather(*(pool.call(protocol.RECOVER, None) for _ in range(size)))
        store = closures.Closures(pool, connections=settings.store.connections)
        realizer = Realizer(settings.store.root, pool, store, parts.options_of(settings))
        yield _Node(settings.store.root, pool, store, realizer)
        await realizer.aclose()
        await store.aclose()
    finally:
        await pool.aclose()


async def _serve(settings: Settings) -> None:
    async with _node(settings) as node:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            ((what, argument),) = json.loads(line).items()
            begun = time.perf_counter()
            await getattr(node, what)(argument)
            seconds = time.perf_counter() - begun
            answer = {
                "seconds": seconds,
                "peaks": [processes.peak_of(each) for each in node.processes],
                "computed": [processes.computed_by(each) for each in node.processes],
            }
            print(json.dumps(answer), flush=True)


def _settings_of(text: str) -> Settings:
    given: dict[str, dict[str, Any]] = json.loads(text)
    store = given["store"]
    store |= {name: tuple(store[name]) for name in ("caches", "public_keys")}
    store["root"] = Path(cast(str, store["root"]))
    return Settings(
        store=StoreSettings(**store),
        floxhub=FloxHubSettings(**given.get("floxhub", {})),
        log=LogSettings(level="warning"),
    )


if __name__ == "__main__":
    uvloop.run(_serve(_settings_of(sys.argv[1])))
