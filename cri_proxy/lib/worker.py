"""A worker: the program that does the daemon's heavy work, job by job, in threads.

The daemon (`workers.Pool`) starts it with a socket for standard input and output and sends an init
message (`pipe`), from whose settings `build` makes the table of jobs, then jobs and cancellations.
Each job runs in a thread of its own, or is only started by the thread that reads and answers by a
future. It ends with a result or an error, and may report progress before. Standard output is the
protocol's alone: anything that prints lands on standard error, which is the daemon's log.

The end of standard input means that the daemon is gone: the worker exits at once, in the middle of
whatever it does. That is the only way out besides SIGKILL, which jobs must survive anyway; signals
that a terminal or systemd sends to the whole group are left to the daemon.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NoReturn, TypeVar, assert_never

import msgspec

from cri_proxy import errors
from cri_proxy.errors import CriProxyError, ErrorRecord
from cri_proxy.lib import codec, logger, meters, pipe, scheduling
from cri_proxy.lib.job import Cancelled, Jobs, Task

S = TypeVar("S")

_log = logger.of(__name__)


def serve(kind: type[S], build: Callable[[S], Jobs], *, threads: int = 32) -> NoReturn:
    """Serve jobs on standard input and output until the daemon closes them.

    `build` receives the settings of the init message, of class `kind`, and returns the jobs.
    Settings that it refuses make every job fail with its error: a worker that died of them would
    be restarted again and again. The process ends here.
    """
    source, sink = _take_standard_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    init = pipe.read(source, pipe.InitMessage)
    if init is None:
        _leave(0)
    scheduling.compute(init.nice)
    _Server(_jobs_of(kind, build, init.settings), sink, threads).run(source)


class _Server:
    """The jobs under way and the one place where frames leave."""

    def __init__(self, jobs: Jobs | CriProxyError, sink: BinaryIO, threads: int) -> None:
        self._jobs = jobs
        self._sink = sink
        self._sending = threading.Lock()
        self._tasks: dict[int, Task[Any]] = {}
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="job")

    def run(self, source: BinaryIO) -> NoReturn:
        """Handle messages until there are none, then exit without waiting for jobs."""
        status = 0
        try:
            while (message := pipe.read(source, pipe.TO_WORKER)) is not None:
                match message:
                    case pipe.StartMessage():
                        self._start(message)
                    case pipe.CancelMessage(number):
                        if (task := self._tasks.get(number)) is not None:
                            task.cancel()
                    case _:
                        assert_never(message)
        except pipe.FrameInvalid as error:
            _log.error("the daemon broke the worker protocol, this worker exits", fault=error)
            status = 1
        _leave(status)

    def _start(self, message: pipe.StartMessage) -> None:
        number = message.id
        task: Task[Any] = Task(
            lambda report: self._send(pipe.ProgressMessage(number, _raw_of(report)))
        )
        self._tasks[number] = task
        try:
            future = self._begin(message, task)
        except BaseException as error:  # noqa: BLE001 - sent to the caller
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda ended: self._end(number, message.job, ended))

    def _begin(self, message: pipe.StartMessage, task: Task[Any]) -> Future[Any]:
        """Run a job in a thread, or start it here if it needs none."""
        if isinstance(self._jobs, CriProxyError):
            raise self._jobs.with_traceback(None)
        implementation = self._jobs.named(message.job)

        def run() -> Any:
            task.check()
            argument = codec.decode(message.argument, implementation.job.argument)
            return implementation.run(argument, task)

        if implementation.start is None:
            return self._executor.submit(run)
        argument = codec.decode(message.argument, implementation.job.argument)
        return implementation.start(argument, task)

    def _end(self, number: int, name: str, ended: Future[Any]) -> None:
        """Send how a job ended; nothing that it raises may be lost in a thread."""
        message: pipe.End
        try:
            message = pipe.ResultMessage(number, _raw_of(ended.result()))
        except Cancelled:
            message = pipe.CancelledMessage(number)
        except CriProxyError as error:
            message = pipe.ErrorMessage(number, errors.to_wire(error))
        except BaseException as error:  # noqa: BLE001 - the border: answered and logged
            message = pipe.ErrorMessage(number, _fault_of(name, error))
        finally:
            del self._tasks[number]
        try:
            self._send(message)
        except pipe.FrameInvalid as error:
            self._send(pipe.ErrorMessage(number, _fault_of(name, error)))

    def _send(self, message: pipe.FromWorker) -> None:
        frame = pipe.frame_of(message)
        if increments := meters.drain():
            frame = pipe.frame_of(pipe.CountsMessage(increments)) + frame
        try:
            with self._sending:
                self._sink.write(frame)
                self._sink.flush()
        except OSError:
            _leave(0)


def _raw_of(value: object) -> msgspec.Raw:
    return msgspec.Raw(codec.encode(value))


def _jobs_of(
    kind: type[S], build: Callable[[S], Jobs], settings: msgspec.Raw
) -> Jobs | CriProxyError:
    """Return the table of jobs, or the error with which every job is to fail."""
    try:
        return build(codec.decode(settings, kind))
    except CriProxyError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the border of the process: answered and logged
        return errors.of_wire(_fault_of("init", error))


def _fault_of(name: str, error: BaseException) -> ErrorRecord:
    """Log an exception that is not one of ours and return what the caller gets instead."""
    _log.error("worker job failed unexpectedly", job=name, fault=error)
    return errors.to_wire(
        errors.InternalFault(
            f"the worker's job {name} failed unexpectedly, see the log for the traceback: "
            f"{type(error).__name__}: {error}"
        )
    )


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Move the protocol's streams to other descriptors; 0 and 1 become harmless ones."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(source, "rb"), os.fdopen(sink, "wb")


def _leave(status: int) -> NoReturn:
    """End the process although jobs are running in threads."""
    sys.stderr.flush()
    os._exit(status)
