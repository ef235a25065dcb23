"""A pool of worker processes: where the daemon's loop sends everything that takes a while.

`Pool.call` picks the worker with the least to do, starting another while there may be more, and
waits for the answer; the program on the other side is `worker.serve`. Workers start when first
needed, or earlier with `warm`, and leave after `idle_seconds` without a job, which gives their
memory back to the pods; `kept` of them stay, so that the next job need not wait for a start.

Promises: an error of ours raised in a job is raised here as the same class; anything else becomes
InternalFault. A worker that dies (out of memory, killed) costs its jobs one more try on a new
worker, so jobs must be idempotent. Cancelling `call` cancels the job, if the job looks. When the
daemon is gone, however it went, its workers see their input end and leave at once.

Workers are spawned, never forked: gRPC does not survive a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cri_proxy import errors
from cri_proxy.lib import worker

GRACE_SECONDS: Final = 5.0
_VARIABLES: Final = (  # of the daemon's environment, what a worker may see
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
_GONE: Final = (ConnectionError, RuntimeError)  # writing to a closed pipe; the latter is uvloop's
_logger = logging.getLogger(__name__)

OnProgress = Callable[[dict[str, Any]], None]


class Pool:
    """Up to `size` workers of the program `argv`, each greeted with `greeting`.

    `nice` is added to the workers' niceness, so that relaying keeps the processor when both want
    it. Belongs to the loop that first calls it; `aclose` ends it for good.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: int,
        greeting: Mapping[str, Any],
        idle_seconds: float = 60.0,
        kept: int = 0,
        nice: int = 10,
    ) -> None:
        self._argv = tuple(argv)
        self._size = size
        self._hello = worker.encode_frame({"greeting": dict(greeting), "nice": nice})
        self._idle_seconds = idle_seconds
        self._kept = kept
        self._workers: set[_Worker] = set()
        self._is_closed = False

    async def call(
        self,
        job: str,
        argument: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        weight: int = 1,
    ) -> dict[str, Any]:
        """Return what `job` makes of `argument`; `on_progress` gets what it reports meanwhile.

        `weight` says how much work it is beside others. A job that is tried again reports from its
        beginning again, and in a worker that was started since: what killed one may have killed
        all, some of them not noticed yet. Raises the job's own error, or InternalFault when two
        workers died of it.
        """
        elders: frozenset[_Worker] = frozenset()
        for attempt in (1, 2):
            if self._is_closed:
                raise errors.InternalFault(f"the job {job} came after the worker pool was closed")
            try:
                return await self._pick(elders).call(job, argument, on_progress, weight)
            except _Died as died:
                if self._is_closed:
                    raise errors.InternalFault(
                        f"the worker pool was closed during the job {job}; ask again"
                    ) from None
                _logger.warning("worker died during job=%s attempt=%d: %s", job, attempt, died)
                outcome = str(died)
                elders = frozenset(self._workers)
        raise errors.InternalFault(
            f"two worker processes died during the job {job}, the last with {outcome}: look for "
            f"the out-of-memory killer in the kernel's log and for tracebacks in this one"
        )

    def warm(self) -> None:
        """Start what may be started: there will be work for all of them in a moment."""
        for _ in range(0 if self._is_closed else self._size - len(self._usable())):
            self._start().rest()

    async def aclose(self) -> None:
        """End all workers: their input ends, and after a grace they are killed."""
        self._is_closed = True
        while self._workers:
            await asyncio.gather(*(each.aclose() for each in tuple(self._workers)))

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes running now, for resource accounting."""
        return tuple(each.process_id for each in self._workers if each.process_id is not None)

    def _pick(self, elders: frozenset[_Worker]) -> _Worker:
        """Return the worker with the least to do; a new one if all are busy and more may be.

        None of the `elders` is returned, so that a new one may be one too many for a moment.
        """
        usable = [each for each in self._usable() if each not in elders]
        best = min(usable, key=lambda each: (each.load, not each.is_ready), default=None)
        if best is None or (best.load and len(usable) < self._size):
            best = self._start()
        return best

    def _start(self) -> _Worker:
        """Return a new worker."""
        started = _Worker(self._argv, self._hello, self._leave, self._workers.discard)
        self._workers.add(started)
        return started

    def _usable(self) -> list[_Worker]:
        """Return the workers that take jobs."""
        return [each for each in self._workers if each.is_open and not each.has_ended]

    def _leave(self, idle: _Worker) -> asyncio.TimerHandle:
        """Have a worker retire when it has been idle for long, unless it is one that is kept."""

        def retire() -> None:
            if len(self._usable()) > self._kept:
                idle.retire()

        return asyncio.get_running_loop().call_later(self._idle_seconds, retire)


class _Died(Exception):
    """The worker went away before it answered; the text says how."""


class _Call:
    """One job that awaits its answer."""

    __slots__ = ("answer", "on_progress")

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress


class _Worker:
    """One process, from its start to the moment it has been waited for."""

    def __init__(
        self,
        argv: Sequence[str],
        hello: bytes,
        on_idle: Callable[[_Worker], asyncio.TimerHandle],
        on_end: Callable[[_Worker], None],
    ) -> None:
        self._argv = argv
        self._hello = hello
        self._on_idle = on_idle
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._started: asyncio.Future[asyncio.StreamWriter] = (
            asyncio.get_running_loop().create_future()
        )
        self._task = asyncio.create_task(self._live())
        self.load = 0
        self.is_open = True

    @property
    def is_ready(self) -> bool:
        """Whether the process has been started; it may still be loading."""
        return self._started.done()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone; what it wrote last may still be on its way."""
        return self._process is not None and self._process.returncode is not None

    @property
    def process_id(self) -> int | None:
        """The process's id while it runs."""
        return None if self._process is None or self.has_ended else self._process.pid

    async def call(
        self,
        job: str,
        argument: Mapping[str, Any],
        on_progress: OnProgress | None,
        weight: int,
    ) -> dict[str, Any]:
        """Run one job here; raise _Died if the process ends first."""
        number = next(self._numbers)
        try:
            frame = worker.encode_frame({"id": number, "job": job, "argument": dict(argument)})
        except worker.FrameInvalid as error:
            raise errors.InternalFault(f"the job {job} cannot be sent: {error}") from error
        call = self._calls[number] = _Call(on_progress)
        self._busy(weight)
        try:
            writer = await asyncio.shield(self._started)
            with contextlib.suppress(*_GONE):
                writer.write(frame)
                await writer.drain()
            message = await call.answer
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            del self._calls[number]
            self._free(weight)
        if "error" in message:
            raise errors.of_wire(message["error"])
        if "result" not in message:
            raise errors.InternalFault(f"the worker gave up the job {job} although nobody asked")
        result: dict[str, Any] = message["result"]
        return result

    async def aclose(self) -> None:
        """End the process: ask by closing its input, then kill; return when it is gone."""
        self.retire()
        done, _ = await asyncio.wait((self._task,), timeout=GRACE_SECONDS)
        if not done:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await asyncio.wait((self._task,))

    async def _live(self) -> None:
        """Start the process, hand out its answers, and wait for it."""
        outcome = "it could not be started"
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(self._hello)
            self._started.set_result(process.stdin)
            if not self.is_open:
                process.stdin.close()
            try:
                await self._hand_out(process.stdout)
            except worker.FrameInvalid as error:
                _logger.error("worker pid=%d broke the protocol: %s", process.pid, error)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            process.stdin.close()
            outcome = f"exit status {await self._ended(process)}"
        except OSError as error:
            outcome = f"{self._argv[0]} could not be started: {error}"
        finally:
            self._end(outcome)

    async def _hand_out(self, reader: asyncio.StreamReader) -> None:
        """Give every frame to its call until the worker's output ends."""
        while True:
            try:
                payload = await reader.readexactly(worker.length_of(await reader.readexactly(4)))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            message = worker.decode_payload(payload)
            call = self._calls.get(message.get("id", 0))
            if call is None or call.answer.done():
                continue
            if "progress" not in message:
                call.answer.set_result(message)
            elif call.on_progress is not None:
                try:
                    call.on_progress(message["progress"])
                except Exception as error:  # noqa: BLE001 - the caller's fault, not the worker's
                    call.answer.set_exception(error)
                    call.answer.exception()  # if it is cancelled nobody retrieves it

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Wait for a process whose output has ended; one that stays on regardless is killed."""
        try:
            return await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    def _end(self, outcome: str) -> None:
        self.is_open = False
        if self._idle is not None:
            self._idle.cancel()
        if not self._started.done():
            self._started.set_exception(_Died(outcome))
            self._started.exception()  # nobody may be waiting; that is no fault
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(_Died(outcome))
                call.answer.exception()
        self._on_end(self)

    def retire(self) -> None:
        """Take no more jobs and let the process see the end of its input."""
        self.is_open = False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _cancel(self, number: int) -> None:
        """Tell the worker that nobody waits for this job, if it was ever told of the job."""
        if self.is_open and self._started.done() and self._started.exception() is None:
            with contextlib.suppress(*_GONE):
                self._started.result().write(worker.encode_frame({"id": number, "cancel": True}))

    def _busy(self, weight: int) -> None:
        self.load += weight
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _free(self, weight: int) -> None:
        self.load -= weight
        self.rest()

    def rest(self) -> None:
        """Begin to be idle, if nothing is to be done."""
        if self.load == 0 and self.is_open:
            self._idle = self._on_idle(self)
