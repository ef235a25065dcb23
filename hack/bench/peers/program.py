"""One node's realization: the jobs that the daemon sends to its workers, as threads of one process.

    python -m hack.bench.peers.program '{"store": {...}, "roots": [basename, ...]}'

It prints `ready`, waits for a line, fetches the closure of the roots in the order in which the
paths are discovered, and prints the number of paths.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cri_proxy.lib import codec
from cri_proxy.lib.job import Task
from cri_proxy.store import protocol
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import jobs as fetching
from cri_proxy.store.protocol import Fact, Fetch, Fetched, StoreOptions, Survey

DOWNLOADS: Final = 4


@dataclass(frozen=True, slots=True)
class Argument:
    """The roots to realize, and the store's options."""

    store: StoreOptions
    roots: tuple[str, ...]


def main(argument: Argument) -> None:
    """Run the realization."""
    jobs = fetching.jobs(argument.store)
    print("ready", flush=True)
    sys.stdin.readline()
    underway: list[Future[Fetched]] = []
    with ThreadPoolExecutor(DOWNLOADS) as downloads:

        def take(facts: list[Fact]) -> None:
            for fact in facts:
                if fact.found is not None:
                    task = Task[int](lambda count: None)
                    wanted = Fetch(fact.path, fact.found)
                    underway.append(downloads.submit(jobs[protocol.FETCH], wanted, task))

        take(jobs[protocol.SURVEY](Survey(argument.roots, width=32), Task(take)))
        for each in underway:
            each.result()
    print(len(Store(argument.store.directory).paths()), flush=True)


if __name__ == "__main__":
    main(codec.decode(sys.argv[1].encode(), Argument))
