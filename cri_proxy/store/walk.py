"""The walk over a closure: from its roots along references, wherever its paths are.

Paths that are present are read from their records; what is absent is asked for, many at a time, and
leads on when its answer has come. Facts are reported while the walk goes on, so that downloads
start while the closure is still being discovered; those that have not been told are its result.

What caches say is not verified here, so no cache may lead the walk on and on: it has an end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from cri_proxy import errors
from cri_proxy.lib.worker import Task
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.cache import Offer
from cri_proxy.store.local import Store
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.volley import Question, Volley
from cri_proxy.store.wire import Fact

PATHS_AT_MOST: Final = 100_000
"""Paths of a closure; those of whole systems have some thousands."""

_REPORTED_FACTS: Final = 32
_REPORT_SECONDS: Final = 0.01
_WAIT_SECONDS: Final = 0.25

Learned = tuple[Fact, tuple[StorePath, ...]]
"""What the daemon is told of a path, and where it leads."""


class Walk:
    """One walk: what has been seen, what is being asked, what is still to be told.

    `question_of` asks caches for a path; `prepare` is called before the first of them is.
    """

    def __init__(
        self,
        store: Store,
        task: Task,
        volley: Volley[StorePath, Learned],
        *,
        question_of: Callable[[StorePath], Question[StorePath, Learned]],
        prepare: Callable[[], None],
    ) -> None:
        self._store = store
        self._task = task
        self._volley = volley
        self._question_of = question_of
        self._prepare = prepare
        self._is_prepared = False
        self._frontier: list[StorePath] = []
        self._seen: set[StorePath] = set()
        self._facts: list[Fact] = []
        self._told_at = time.monotonic()

    def run(self, roots: Iterable[StorePath]) -> list[Fact]:
        """Walk from the roots to the end; return the facts that have not been reported."""
        self._frontier.extend(roots)
        while self._frontier or self._volley.is_asking:
            self._task.check()
            while self._frontier:
                self._visit(self._frontier.pop())
            self._tell()
            self._listen()
        return self._facts

    def _visit(self, path: StorePath) -> None:
        """Learn of a path from its record, or ask the caches for it.

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
        if record is not None:
            self._frontier.extend(record.references)
            self._facts.append(fact_of(record))
            return
        if not self._is_prepared:
            self._prepare()
            self._is_prepared = True
        self._volley.ask(self._question_of(path))

    def _listen(self) -> None:
        """Take the answers of caches, if some come before something else is due."""
        seconds = _REPORT_SECONDS if self._facts else _WAIT_SECONDS
        for _, learned in self._volley.answers(seconds):
            if isinstance(learned, BaseException):
                raise learned
            fact, references = learned
            self._frontier.extend(references)
            self._facts.append(fact)

    def _tell(self) -> None:
        """Report the new facts when they are many, or have waited long enough."""
        is_due = time.monotonic() - self._told_at >= _REPORT_SECONDS
        if len(self._facts) >= _REPORTED_FACTS or (is_due and self._facts):
            self._task.report({"facts": self._facts})
            self._facts = []
            self._told_at = time.monotonic()


def fact_of(info: NarInfo, offer: Offer | None = None) -> Fact:
    """Return what the daemon is told of a path; of an absent one, who offers it."""
    fact: Fact = {
        "path": info.path.basename,
        "references": [each.basename for each in info.references],
        "nar_size": info.nar_size,
    }
    if offer is not None:
        fact |= {"cache": offer.cache.url, "narinfo": narinfo.text_of(info)}
        if info.file_size is not None:
            fact["file_size"] = info.file_size
    return fact
