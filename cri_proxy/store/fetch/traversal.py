"""The walk over a closure: from its roots along references, wherever its paths are.

Paths that are present are read from their records; what is absent is asked for, many at a time, and
leads on when its answer has come. The walk goes in breadth: what has changed is near the roots, and
is asked for before all the rest is read. Facts are reported while the walk goes on, so that
downloads start while the closure is still being discovered; those that have not been told are its
result. A walk is a job of the `loop`.

What caches say is not verified here, so no cache may lead the walk on and on: it has an end.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final

from cri_proxy import errors
from cri_proxy.lib.job import Task
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.caches import volley
from cri_proxy.store.caches.cache import Offer
from cri_proxy.store.caches.volley import Question, Volley
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch.loop import Turns
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.protocol import Fact, Found

PATHS_AT_MOST: Final = 100_000
"""Paths of a closure; those of whole systems have some thousands."""

_REPORTED_FACTS: Final = 32
_REPORT_SECONDS: Final = 0.004
_VISITED: Final = 16
"""Paths in one turn: each that is present takes some calls of the kernel."""

Learned = tuple[Fact, tuple[StorePath, ...]]
"""What the daemon is told of a path, and where it leads."""


class Walk:
    """One walk: what has been seen, what is being asked, what is still to be told.

    `question_of` asks caches for a path; before the first of them is asked, `prepare` is called,
    and what it returns is waited for.
    """

    def __init__(
        self,
        store: Store,
        task: Task[list[Fact]],
        questions: Volley[StorePath, Learned],
        *,
        question_of: Callable[[StorePath], Question[StorePath, Learned]],
        prepare: Callable[[], Iterable[Future[Any]]],
    ) -> None:
        self._store = store
        self._task = task
        self._volley = questions
        self._question_of = question_of
        self._prepare = prepare
        self._is_prepared = False
        self._frontier: collections.deque[StorePath] = collections.deque()
        self._absent: list[StorePath] = []
        self._seen: set[StorePath] = set()
        self._facts: list[Fact] = []
        self._told_at = time.monotonic()

    def run(self, roots: Iterable[StorePath]) -> Turns[list[Fact]]:
        """Walk from the roots to the end; return the facts that have not been reported."""
        # What is absent comes first: its answers are on their way while the rest is read.
        self._frontier.extend(sorted(roots, key=self._store.is_in_place))
        while True:
            self._task.check()
            for _ in range(min(_VISITED, len(self._frontier))):
                self._visit(self._frontier.popleft())
            yield from self._ask_for_absent()
            self._tell()
            self._listen()
            if self._frontier:
                yield 0
            elif self._volley.is_asking:
                yield _REPORT_SECONDS if self._facts else volley.LOOK_SECONDS
            else:
                return self._facts

    def _visit(self, path: StorePath) -> None:
        """Learn of a path from its record, or note that caches are to be asked for it.

        A reserved path is asked for as if it were absent: see `fetching`.
        """
        if path in self._seen:
            return
        if len(self._seen) == PATHS_AT_MOST:
            raise errors.ContentDamaged(
                f"the closure has more than {PATHS_AT_MOST} paths, which no environment has: "
                "see what the binary caches say of them"
            )
        self._seen.add(path)
        record = self._store.shared_record(path)
        if record is None:
            self._absent.append(path)
        else:
            self._frontier.extend(record.references)
            self._facts.append(fact_of(record))

    def _ask_for_absent(self) -> Turns[None]:
        """Ask the caches for what is absent, when it is known in which order."""
        if self._absent and not self._is_prepared:
            for greeted in self._prepare():
                while not greeted.done():
                    yield greeted
            self._is_prepared = True
        absent, self._absent = self._absent, []
        for path in absent:
            self._volley.ask(self._question_of(path))

    def _listen(self) -> None:
        """Take the answers of caches that have come."""
        for _, learned in self._volley.answers(at_most=_REPORTED_FACTS - len(self._facts)):
            if isinstance(learned, BaseException):
                raise learned
            fact, references = learned
            self._frontier.extend(references)
            self._facts.append(fact)

    def _tell(self) -> None:
        """Report the new facts when they are many, or have waited long enough."""
        is_due = time.monotonic() - self._told_at >= _REPORT_SECONDS
        if len(self._facts) >= _REPORTED_FACTS or (is_due and self._facts):
            self._task.report(self._facts)
            self._facts = []
            self._told_at = time.monotonic()


def fact_of(info: NarInfo, offer: Offer | None = None) -> Fact:
    """Return what the daemon is told of a path; of an absent one, who offers it."""
    return Fact(
        path=info.path.basename,
        references=tuple(each.basename for each in info.references),
        nar_size=info.nar_size,
        found=None
        if offer is None
        else Found(offer.cache.url, narinfo.text_of(info), info.file_size),
    )
