"""A pool of worker processes, which does for the daemon's event loop everything that takes a while.

`Pool.call` picks the worker with the least to do, starting another if the pool may grow, and
waits for the result; the program on the other side is `worker.serve`, the messages are `pipe`'s.
Workers start when first needed, or earlier with `warm`, and exit after `idle_seconds` without a
job, which gives their memory back to the pods; `kept` of them stay, so that the next job need not
wait for a start.

Promises: an error of ours raised in a job is raised here as the same class, or as the nearest of
its bases that `errors` defines; anything else becomes InternalFault. A job whose worker dies (out
of memory, killed) is retried once on a new worker, so jobs must be idempotent. Cancelling `call`
cancels the job, if the job checks. When the daemon is gone, however it ended, its workers see their
input end and exit at once.

Workers are children as `child` starts them, with a socket for both standard input and output. What
their counters have grown by is added to the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, assert_never

import msgspec

from cri_proxy import errors
from cri_proxy.lib import child, codec, logger, meters, pipe
from cri_proxy.lib.job import Job

GRACE_SECONDS: Final = child.GRACE_SECONDS
_GONE: Final = (ConnectionError, RuntimeError)  # writing to a closed socket; the latter is uvloop's
_log = logger.of(__name__)

A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class Pool:
    """Up to `size` workers of the program `argv`, each initialized with `settings`.

    `settings` is what the program builds its jobs from (`worker.serve`). `nice` is added to the
    workers' niceness, so that relaying keeps the processor when both want it. Belongs to the loop
    that first calls it; `aclose` ends it for good.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: int,
        settings: object,
        idle_seconds: float = 60.0,
        kept: int = 0,
        nice: int = 10,
    ) -> None:
        self._argv = tuple(argv)
        self._size = size
        init = pipe.InitMessage(msgspec.Raw(codec.encode(settings)), nice)
        self._first_frame = pipe.frame_of(init)
        self._idle_seconds = idle_seconds
        self._kept = kept
        self._workers: set[_Worker] = set()
        self._is_closed = False

    async def call(
        self,
        job: Job[A, P, R],
        argument: A,
        *,
        on_progress: Callable[[P], None] | None = None,
        weight: int = 1,
    ) -> R:
        """Return the result of `job` for `argument`; `on_progress` gets what it reports meanwhile.

        `weight` says how much work it is compared with others. A job that is retried reports from
        its beginning again, and runs in a worker that was started since: what killed one worker may
        have killed all, and some of the deaths may not have been noticed yet. Raises the job's own
        error, or InternalFault when two workers died of it.
        """
        elders: frozenset[_Worker] = frozenset()
        for attempt in (1, 2):
            if self._is_closed:
                raise errors.InternalFault(
                    f"the job {job.name} came after the worker pool was closed"
                )
            try:
                return await self._pick(elders).call(job, argument, on_progress, weight)
            except _Died as died:
                if self._is_closed:
                    raise errors.InternalFault(
                        f"the worker pool was closed during the job {job.name}; ask again"
                    ) from None
                _log.warning("worker died", job=job.name, attempt=attempt, why=died)
                outcome = str(died)
                elders = frozenset(self._workers)
        raise errors.InternalFault(
            f"two worker processes died during the job {job.name}, the last with {outcome}: look "
            f"for the out-of-memory killer in the kernel's log and for tracebacks in this one"
        )

    def warm(self) -> None:
        """Start all workers that the pool may have: there will be work for them in a moment."""
        for _ in range(0 if self._is_closed else self._size - len(self._usable())):
            self._start().rest()

    async def aclose(self) -> None:
        """End all workers: their input ends, and after a grace they are killed."""
        self._is_closed = True
        while self._workers:
            await asyncio.gather(*(each.aclose() for each in tuple(self._workers)))

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The ids of the processes that run now, for resource accounting."""
        running = [each._process for each in self._workers if not each.has_ended]
        return tuple(process.pid for process in running if process is not None)

    def _pick(self, elders: frozenset[_Worker]) -> _Worker:
        """Return the worker with the least to do; a new one if all are busy and the pool may grow.

        None of the `elders` is returned, so that the pool may have one too many for a moment.
        """
        usable = [each for each in self._usable() if each not in elders]
        best = min(usable, key=lambda each: (each.load, not each.is_ready), default=None)
        if best is None or (best.load and len(usable) < self._size):
            best = self._start()
        return best

    def _start(self) -> _Worker:
        started = _Worker(self)
        self._workers.add(started)
        return started

    def _usable(self) -> list[_Worker]:
        return [each for each in self._workers if each.is_open and not each.has_ended]

    def _dismiss(self, idle: _Worker) -> None:
        """Retire a worker that stayed idle, unless it is one of those that are kept."""
        if len(self._usable()) > self._kept:
            idle.retire()


class _Died(Exception):
    """The worker exited before it answered; the text says how."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One job whose end is awaited; `report` hands on what it reports."""

    end: asyncio.Future[pipe.End]
    report: Callable[[msgspec.Raw], None]


class _Worker:
    """One process, from its start to the moment it has been waited for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[asyncio.StreamWriter] = self._loop.create_future()
        self._task = asyncio.create_task(self._live())
        self.load = 0
        self.is_open = True

    @property
    def is_ready(self) -> bool:
        """Return whether the process has been started; it may still be loading."""
        return self._started.done()

    @property
    def has_ended(self) -> bool:
        """Return whether the process has exited; its last output may not have been read yet."""
        return self._process is not None and self._process.poll() is not None

    async def call(
        self,
        job: Job[A, P, R],
        argument: A,
        on_progress: Callable[[P], None] | None,
        weight: int,
    ) -> R:
        """Run one job here; raise _Died if the process ends first."""

        def report(encoded: msgspec.Raw) -> None:
            if on_progress is not None:
                on_progress(_decoded(job, encoded, job.progress))

        number = next(self._numbers)
        try:
            message = pipe.StartMessage(number, job.name, msgspec.Raw(codec.encode(argument)))
            frame = pipe.frame_of(message)
        except (pipe.FrameInvalid, TypeError, ValueError) as error:
            raise errors.InternalFault(f"the job {job.name} cannot be sent: {error}") from error
        call = self._calls[number] = _Call(self._loop.create_future(), report)
        self.load += weight
        self._stop_idling()
        try:
            writer = await asyncio.shield(self._started)
            with contextlib.suppress(*_GONE):
                writer.write(frame)
                await writer.drain()
            end = await call.end
        except asyncio.CancelledError:
            with contextlib.suppress(*_GONE):
                if self.is_open and (running := self._writer()) is not None:
                    running.write(pipe.frame_of(pipe.CancelMessage(number)))
            raise
        finally:
            del self._calls[number]
            self.load -= weight
            self.rest()
        match end:
            case pipe.ResultMessage():
                return _decoded(job, end.result, job.result)
            case pipe.ErrorMessage():
                raise errors.of_wire(end.error)
            case pipe.CancelledMessage():
                raise errors.InternalFault(
                    f"the worker gave up the job {job.name}, which was not cancelled"
                )
            case _:
                assert_never(end)

    async def aclose(self) -> None:
        """End the process: ask by closing its input, then kill; return when it is gone."""
        self.retire()
        done, _ = await asyncio.wait((self._task,), timeout=GRACE_SECONDS)
        if not done:
            if self._process is not None:
                self._process.kill()
            await asyncio.wait((self._task,))

    async def _live(self) -> None:
        """Start the process, dispatch its messages, and wait for its end."""
        outcome = "it could not be started"
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                reader, writer = await asyncio.open_unix_connection(sock=ours)
                try:
                    self._process = process = child.spawn(self._pool._argv, channel=theirs)
                except OSError:
                    writer.close()
                    raise
            writer.write(self._pool._first_frame)
            self._started.set_result(writer)
            if not self.is_open:
                writer.write_eof()
            try:
                await self._dispatch(reader)
            except pipe.FrameInvalid as error:
                _log.error("worker broke the protocol", pid=process.pid, why=error)
                process.kill()
            writer.close()
            try:
                status = await asyncio.to_thread(process.wait, GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = await asyncio.to_thread(process.wait)
            outcome = f"exit status {status}"
        except OSError as error:
            outcome = f"{self._pool._argv[0]} could not be started: {error}"
        finally:
            self._end(outcome)

    async def _dispatch(self, reader: asyncio.StreamReader) -> None:
        """Give every message to its call until the worker's output ends."""
        while True:
            try:
                head = await reader.readexactly(pipe.HEAD_BYTES)
                payload = await reader.readexactly(pipe.length_of(head))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            message = pipe.message_of(payload, pipe.FROM_WORKER)
            if isinstance(message, pipe.CountsMessage):
                meters.add(message.increments)
                continue
            call = self._calls.get(message.id)
            if call is None or call.end.done():
                continue
            if not isinstance(message, pipe.ProgressMessage):
                call.end.set_result(message)
                continue
            try:
                call.report(message.report)
            except Exception as error:  # noqa: BLE001 - the caller's fault, not the worker's
                _fail(call.end, error)

    def _end(self, outcome: str) -> None:
        self.is_open = False
        self._stop_idling()
        _fail(self._started, _Died(outcome))
        for call in self._calls.values():
            _fail(call.end, _Died(outcome))
        self._pool._workers.discard(self)

    def retire(self) -> None:
        """Accept no more jobs and close the process's input, so that it exits."""
        self.is_open = False
        with contextlib.suppress(*_GONE):
            if (writer := self._writer()) is not None:
                writer.write_eof()

    def rest(self) -> None:
        """Start the idle timer if the worker has no job."""
        if self.load == 0 and self.is_open:
            pool = self._pool
            self._idle = self._loop.call_later(pool._idle_seconds, pool._dismiss, self)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _writer(self) -> asyncio.StreamWriter | None:
        """Return what writes to the process, None if it has not been started."""
        if self._started.done() and self._started.exception() is None:
            return self._started.result()
        return None


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Set an exception that counts as retrieved, since there may be no caller that waits."""
    if not future.done():
        future.set_exception(error)
        future.exception()


def _decoded(job: Job[A, P, R], encoded: msgspec.Raw, kind: type[T]) -> T:
    """Return a report or result of `job`; raise InternalFault if it is not of its class."""
    try:
        return codec.decode(encoded, kind)
    except ValueError as error:
        raise errors.InternalFault(
            f"the job {job.name} answered in a form that was not expected: {error}"
        ) from error
