"""Volleys: many small files asked of caches at a time, by one thread.

A thread for each request spends more on waking up than on what it was woken for. Here the requests
of a whole closure go out over connections that are open, and their answers are used as they come:

    ask       a `Question`: where to look for a file, in which order, and what to do with it
    answers   what has come of the questions since, each with its question

What is out of the ordinary is not decided here. A miss goes on to the next cache; every other
trouble (a cache that breaks off, a signature that nobody trusts, a proxy in between, an answer that
is later than is usual) goes to the question's `insist`, in a thread of its own, which has all
patience and knows all other ways. Of a late answer and what `insist` makes of it meanwhile, the
first is taken.

Opening connections takes round trips, and is for threads as well. Nothing else waits: `answers`
takes what has come, and `fileno` can be polled by whoever has other things to do (`loop`).
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled
from cri_proxy.store.caches.cache import Cache, Coming, Site
from cri_proxy.store.http.exchanges import Stale

REFUSALS: Final = (
    errors.ContentDamaged,
    errors.RequestInvalid,
    errors.SourceUnreachable,
    errors.SignatureUntrusted,
    errors.NotFound,
)
"""What another cache, or another attempt, may mend."""

LOOK_SECONDS: Final = 0.25
"""Whoever waits for answers should ask at least that often: it is then that late ones are seen."""

K = TypeVar("K")
V = TypeVar("V")
Check = Callable[[], None]


@dataclass(slots=True, eq=False)
class Question(Generic[K, V]):
    """A file that is wanted: `key` is the asker's own name for it.

    `places` are caches and the file's name there, in the order to look. `use` makes the result of a
    file, in the asking thread; it raises one of REFUSALS if the file is no good. `insist` makes the
    result in another way; it may block, and calls its argument now and then, which may raise.
    """

    key: K
    places: Iterator[tuple[Cache, str]]
    use: Callable[[Cache, bytes], V]
    insist: Callable[[Check], V]
    is_over: bool = field(default=False, init=False)
    is_insisting: bool = field(default=False, init=False)


Outcome = tuple[Question[K, V], V | BaseException]


class Volley(Generic[K, V]):
    """The questions of one asker, at most `width` under way; of one thread, and to be closed.

    `openers` open connections, `insisting` runs what insists: not the same threads, for the latter
    may wait for each other.
    """

    def __init__(self, *, width: int, openers: Executor, insisting: Executor) -> None:
        self._width = width
        self._openers = openers
        self._insisting = insisting
        self._waiting: collections.deque[_Waiting[K, V]] = collections.deque()
        self._sent: dict[int, _Sent[K, V]] = {}
        self._open: set[Question[K, V]] = set()
        self._outcomes: list[Outcome[K, V]] = []
        self._opening = 0
        self._unopened: set[Site] = set()
        self._looking_at = time.monotonic() + LOOK_SECONDS
        self._poll = select.epoll()
        self._bell = _Bell()
        self._poll.register(self._bell.descriptor, select.EPOLLIN)

    def __enter__(self) -> Volley[K, V]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what has no outcome yet."""
        for question in self._open:
            question.is_over = True
        for sent in self._sent.values():
            sent.coming.close()
        self._sent.clear()
        self._bell.close()
        self._poll.close()

    def fileno(self) -> int:
        """Return what can be polled: readable when `answers` has something to do."""
        return self._poll.fileno()

    @property
    def is_asking(self) -> bool:
        """Whether there is a question without an outcome, or an outcome that was not taken."""
        return bool(self._open or self._outcomes)

    def ask(self, question: Question[K, V]) -> None:
        """Take a question; what can be sent is sent at once."""
        self._open.add(question)
        self._next_place(question)
        self._send()

    def answers(self, *, at_most: int = -1) -> list[Outcome[K, V]]:
        """Return what has come of the questions: of so many answers `at_most`, if not of all.

        What is left, or comes later, makes the descriptor of `fileno` readable; questions that were
        answered at once may not, so it is best to ask here first.
        """
        self._send()
        if not self._outcomes and self._open:
            self._look(at_most)
            self._send()
        taken, self._outcomes = self._outcomes, []
        return taken

    def _next_place(self, question: Question[K, V]) -> None:
        """Look at the next place of a question: near ones at once."""
        for source, name in question.places:
            if isinstance(source, Site) and source.is_direct and source not in self._unopened:
                self._waiting.append(_Waiting(question, source, name))
                return
            if not source.is_near:
                break
            try:
                self._end(question, question.use(source, source.read(name)))
            except errors.NotFound:
                continue
            except REFUSALS:
                break
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                self._end(question, error)
            return
        self._insist(question)

    def _send(self) -> None:
        """Send what waits, as far as there are connections; have more opened if there are not."""
        while self._waiting and len(self._sent) < self._width:
            waiting = self._waiting[0]
            source = waiting.source
            if waiting.question.is_over:
                self._waiting.popleft()
                continue
            if source in self._unopened:
                self._waiting.popleft()
                self._insist(waiting.question)
                continue
            coming = source.begin(waiting.name)
            if coming is None:
                self._widen(source)
                return
            self._waiting.popleft()
            self._sent[coming.fileno()] = _Sent(waiting, coming)
            self._poll.register(coming.fileno(), select.EPOLLIN)

    def _widen(self, source: Site) -> None:
        """Have as many connections opened as are wanted and allowed."""
        room = self._width - len(self._sent)
        for _ in range(min(room, len(self._waiting)) - self._opening):
            self._opening += 1
            self._openers.submit(source.widen).add_done_callback(
                lambda future: self._bell.ring(lambda: self._opened(source, future))
            )

    def _opened(self, source: Site, future: Future[None]) -> None:
        """Take note of a connection that is open, or that no more can be had."""
        self._opening -= 1
        if future.exception() is None:
            return
        if self._sent:
            self._width = len(self._sent)
        elif not self._opening:
            self._unopened.add(source)

    def _look(self, at_most: int) -> None:
        """Use what has come; have what is late insisted on."""
        for descriptor, _ in self._poll.poll(0, at_most):
            if descriptor == self._bell.descriptor:
                self._bell.answer()
            else:
                self._advance(descriptor, self._sent[descriptor])
        if (now := time.monotonic()) < self._looking_at:
            return
        self._looking_at = now + LOOK_SECONDS
        for sent in self._sent.values():
            is_late = now - sent.coming.since > sent.waiting.source.late_seconds
            if is_late and not sent.waiting.question.is_insisting:
                self._insist(sent.waiting.question)

    def _advance(self, descriptor: int, sent: _Sent[K, V]) -> None:
        """Take what has come of an answer; make the result of it when it is whole."""
        waiting, question, data = sent.waiting, sent.waiting.question, None
        try:
            if question.is_over:
                sent.coming.close()
            elif (data := sent.coming.advance()) is None:
                return
        except Stale:
            self._leave(descriptor)
            if waiting.is_again:
                self._insist(question)
            else:
                self._waiting.appendleft(replace(waiting, is_again=True))
            return
        except errors.NotFound:
            self._leave(descriptor)
            if not question.is_insisting:
                self._next_place(question)
            return
        except REFUSALS:
            self._leave(descriptor)
            self._insist(question)
            return
        self._leave(descriptor)
        if data is not None:
            self._use(question, waiting.source, data)

    def _leave(self, descriptor: int) -> None:
        """Listen no more to what may have been closed already, or given back."""
        with contextlib.suppress(OSError):
            self._poll.unregister(descriptor)
        del self._sent[descriptor]

    def _use(self, question: Question[K, V], source: Cache, data: bytes) -> None:
        """Make the result of a file."""
        try:
            self._end(question, question.use(source, data))
        except REFUSALS:
            self._insist(question)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            self._end(question, error)

    def _insist(self, question: Question[K, V]) -> None:
        """Have the question answered with all patience."""
        if question.is_insisting:
            return
        question.is_insisting = True

        def check() -> None:
            if question.is_over:
                raise Cancelled

        future = self._insisting.submit(question.insist, check)
        future.add_done_callback(
            lambda future: self._bell.ring(lambda: self._insisted(question, future))
        )

    def _insisted(self, question: Question[K, V], future: Future[V]) -> None:
        error = future.exception()
        self._end(question, future.result() if error is None else error)

    def _end(self, question: Question[K, V], outcome: V | BaseException) -> None:
        if not question.is_over:
            question.is_over = True
            self._open.discard(question)
            self._outcomes.append((question, outcome))


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[K, V]):
    """A question that is to be sent; `is_again` if it was, on a connection that was of no use."""

    question: Question[K, V]
    source: Site
    name: str
    is_again: bool = False


@dataclass(frozen=True, slots=True)
class _Sent(Generic[K, V]):
    """A question whose answer is awaited."""

    waiting: _Waiting[K, V]
    coming: Coming


class _Bell:
    """What other threads have to say: a descriptor that can be polled, and what to do then."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._said: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False

    def ring(self, what: Callable[[], None]) -> None:
        """Have `what` done by the thread that waits, if there still is one."""
        with self._closing:
            if not self._is_closed:
                self._said.put(what)
                os.eventfd_write(self.descriptor, 1)

    def answer(self) -> None:
        """Do what was said."""
        os.eventfd_read(self.descriptor)
        while True:
            try:
                what = self._said.get_nowait()
            except queue.Empty:
                return
            what()

    def close(self) -> None:
        """Hear no more."""
        with self._closing:
            self._is_closed = True
            os.close(self.descriptor)


def places_of(sources: Iterable[Cache], name: str) -> Iterator[tuple[Cache, str]]:
    """Return the places of a file that has the same name in all caches."""
    return ((each, name) for each in sources)
