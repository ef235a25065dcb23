"""One node's realization: the jobs that the daemon sends to its workers, in threads of one process.

    python -m hack.bench.peers.program '{"greeting": {...}, "roots": [basename, ...]}'

It says `ready`, waits for a line, brings the closure of the roots to the store, those paths first
that were found first, and says how many it has then.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cri_proxy.lib.worker import Task
from cri_proxy.store import protocol
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import jobs as fetching

DOWNLOADS: Final = 4


def main(argument: dict[str, Any]) -> None:
    """Do as the module says."""
    jobs = fetching.jobs(argument["greeting"])
    print("ready", flush=True)
    sys.stdin.readline()
    underway: list[Future[dict[str, Any]]] = []
    with ThreadPoolExecutor(DOWNLOADS) as downloads:

        def take(report: dict[str, Any]) -> None:
            for fact in report["facts"]:
                if "narinfo" in fact:
                    task = Task(lambda report: None)
                    underway.append(downloads.submit(jobs[protocol.FETCH], fact, task))

        take(jobs[protocol.SURVEY]({"roots": argument["roots"], "width": 32}, Task(take)))
        for each in underway:
            each.result()
    print(len(Store(Path(argument["greeting"]["directory"])).paths()), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
