"""Closure traversal: from the roots along references, wherever the paths are.

Paths that are present are read from their records; absent ones are looked up in caches, many at a
time, and lead on when their narinfos arrive. The traversal is breadth-first: changed paths are near
the roots, and are requested before all other records are read. Facts are reported while it goes on,
so that downloads start while the closure is still being discovered; its result is the facts that
have not been reported. Each step waits for its turn (`turns`).

What caches say is not verified here, so the number of paths is limited.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from cri_proxy import errors
from cri_proxy.lib.job import Task
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.caches.cache import Offer
from cri_proxy.store.caches.fetcher import Fetcher, Wanted
from cri_proxy.store.disk.local import Store
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.protocol import Fact, Found

PATHS_AT_MOST: Final = 100_000
"""Paths of a closure; those of whole systems have some thousands."""

_REPORTED_FACTS: Final = 32
_REPORT_SECONDS: Final = 0.004
_VISITED: Final = 16
"""Paths in one turn: each that is present takes some system calls."""

Learned = tuple[Fact, tuple[StorePath, ...]]
"""The fact of a path, and its references."""


@dataclass(slots=True, eq=False)
class Walk:
    """One traversal: what has been seen, what is being looked up, what is still to be reported.

    `wanted_of` returns the narinfo of a path to fetch; `prepare` is awaited before the first one,
    and `turn` before each step.
    """

    store: Store
    task: Task[list[Fact]]
    fetcher: Fetcher[StorePath, Learned]
    _: KW_ONLY
    wanted_of: Callable[[StorePath], Wanted[StorePath, Learned]]
    prepare: Callable[[], Awaitable[None]]
    turn: Callable[[], Awaitable[None]]
    _is_prepared: bool = False
    _frontier: collections.deque[StorePath] = field(default_factory=collections.deque)
    _absent: list[StorePath] = field(default_factory=list)
    _seen: set[StorePath] = field(default_factory=set)
    _facts: list[Fact] = field(default_factory=list)
    _reported_at: float = field(default_factory=time.monotonic)

    async def run(self, roots: Iterable[StorePath]) -> list[Fact]:
        """Traverse from the roots to the end; return the facts that have not been reported."""
        # Absent roots come first: their narinfos are on the way while the rest is read.
        self._frontier.extend(sorted(roots, key=self.store.is_in_place))
        while True:
            await self.turn()
            self.task.check()
            for _ in range(min(_VISITED, len(self._frontier))):
                self._visit(self._frontier.popleft())
            await self._ask_for_absent()
            self._report()
            self._learn()
            if not self._frontier:
                if not self.fetcher.is_asking:
                    return self._facts
                await self.fetcher.arrival(_REPORT_SECONDS if self._facts else None)

    def _visit(self, path: StorePath) -> None:
        """Learn of a path from its record, or put it among the absent ones.

        A reserved path is looked up as if it were absent: see `jobs`.
        """
        if path in self._seen:
            return
        if len(self._seen) == PATHS_AT_MOST:
            raise errors.ContentDamaged(
                f"the closure has more than {PATHS_AT_MOST} paths, which no environment has: "
                "see what the binary caches say of them"
            )
        self._seen.add(path)
        record = self.store.shared_record(path)
        if record is None:
            self._absent.append(path)
        else:
            self._frontier.extend(record.references)
            self._facts.append(fact_of(record))

    async def _ask_for_absent(self) -> None:
        if self._absent and not self._is_prepared:
            await self.prepare()
            self._is_prepared = True
        absent, self._absent = self._absent, []
        for path in absent:
            self.fetcher.ask(self.wanted_of(path))

    def _learn(self) -> None:
        for _, learned in self.fetcher.outcomes(at_most=_REPORTED_FACTS - len(self._facts)):
            if isinstance(learned, BaseException):
                raise learned
            fact, references = learned
            self._frontier.extend(references)
            self._facts.append(fact)

    def _report(self) -> None:
        is_due = time.monotonic() - self._reported_at >= _REPORT_SECONDS
        if len(self._facts) >= _REPORTED_FACTS or (is_due and self._facts):
            self.task.report(self._facts)
            self._facts = []
            self._reported_at = time.monotonic()


def fact_of(info: NarInfo, offer: Offer | None = None) -> Fact:
    """Return what the daemon learns of a path; of an absent one, also the cache that offers it."""
    return Fact(
        path=info.path.basename,
        references=tuple(each.basename for each in info.references),
        nar_size=info.nar_size,
        found=None
        if offer is None
        else Found(offer.cache.url, narinfo.text_of(info), info.file_size),
    )
