"""A worker: the program that does the daemon's heavy work, job by job, in threads.

The daemon (`workers.Pool`) starts it with a pipe on each side and writes frames: first a greeting,
from which `build` makes the table of jobs, then jobs and cancellations. Each job runs in a thread
of its own, or is `Carried` by one that has many; it answers with a result or an error; progress
goes out in between. Standard output is the protocol's alone: anything that prints lands on standard
error, which is the daemon's log.

A frame is four bytes of length, most significant first, and that many bytes of JSON:

    to the worker     {"greeting": {...}, "nice": 10}            once, first
                      {"id": 7, "job": "fetch", "argument": {...}}
                      {"id": 7, "cancel": true}
    from the worker   {"id": 7, "progress": {...}}               any number of times
                      {"id": 7, "result": {...}}                 or
                      {"id": 7, "error": {"kind", "message"}}    or, after a cancellation,
                      {"id": 7, "cancelled": true}

The end of standard input means that nobody is interested any more: the worker leaves at once, in
the middle of whatever it does. That is the only way out besides SIGKILL, so jobs must bear it
anyway; signals that a terminal or systemd sends to the whole group are left to the daemon.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Final, NoReturn

from cri_proxy import errors
from cri_proxy.lib import scheduling

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")
_logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """The caller has given up: the job should undo what it staged and return."""


class FrameInvalid(Exception):
    """The other side of the pipe broke the protocol; nothing after this can be trusted."""


class Task:
    """One run of a job, as the job sees it."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._cancelled = threading.Event()

    def report(self, progress: dict[str, Any]) -> None:
        """Send `progress` to the caller; how often is the job's own judgement."""
        self._report(progress)

    def check(self) -> None:
        """Raise Cancelled if the caller has given up."""
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Make the next `check` raise."""
        self._cancelled.set()


Job = Callable[[dict[str, Any], Task], dict[str, Any]]


class Carried:
    """A job without a thread of its own: `start` returns at once, and its future has the result.

    Called as any other job is, it is waited for.
    """

    def __init__(self, start: Callable[[dict[str, Any], Task], Future[dict[str, Any]]]) -> None:
        self.start = start

    def __call__(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """Return the result."""
        return self.start(argument, task).result()


def serve(build: Callable[[dict[str, Any]], Mapping[str, Job]], *, threads: int = 32) -> NoReturn:
    """Serve jobs on standard input and output until the daemon closes them.

    `build` receives the greeting and returns the jobs by name. A greeting that it refuses makes
    every job fail with its error, rather than the worker die and be started again for ever. The
    process ends here.
    """
    source, sink = _take_standard_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    greeting = read_frame(source)
    if greeting is None:
        _leave(0)
    scheduling.compute(greeting.get("nice", 0))
    _Server(_jobs_of(build, greeting["greeting"]), sink, threads).run(source)


def encode_frame(message: Mapping[str, Any]) -> bytes:
    """Return the frame of a message; raise FrameInvalid when it is beyond MAX_FRAME_BYTES."""
    payload = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameInvalid(f"a message of {len(payload)} bytes is beyond {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


def length_of(head: bytes) -> int:
    """Return the payload's length that the four bytes of `head` announce."""
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_FRAME_BYTES:
        raise FrameInvalid(f"a frame of {length} bytes was announced, beyond {MAX_FRAME_BYTES}")
    return length


def decode_payload(payload: bytes) -> dict[str, Any]:
    """Return the message of a frame's payload."""
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise FrameInvalid(f"a frame is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise FrameInvalid("a frame is not a JSON object")
    return message


def read_frame(source: BinaryIO) -> dict[str, Any] | None:
    """Return the next message, or None where the stream ends, be it within a frame."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length = length_of(head)
    payload = source.read(length)
    return None if len(payload) < length else decode_payload(payload)


class _Server:
    """The jobs under way and the one place where frames leave."""

    def __init__(self, jobs: Mapping[str, Job], sink: BinaryIO, threads: int) -> None:
        self._jobs = jobs
        self._sink = sink
        self._sending = threading.Lock()
        self._tasks: dict[int, Task] = {}
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="job")

    def run(self, source: BinaryIO) -> NoReturn:
        """Take frames until there are none, then leave without looking back."""
        status = 0
        try:
            while (message := read_frame(source)) is not None:
                self._take(message)
        except FrameInvalid:
            _logger.exception("the daemon broke the worker protocol, leaving")
            status = 1
        _leave(status)

    def _take(self, message: dict[str, Any]) -> None:
        number = message["id"]
        if "cancel" in message:
            if (task := self._tasks.get(number)) is not None:
                task.cancel()
            return
        task = Task(lambda progress: self._send({"id": number, "progress": progress}))
        self._tasks[number] = task
        name, argument = message["job"], message["argument"]
        job = self._jobs.get(name)
        if isinstance(job, Carried):
            self._start(number, task, name, job, argument)
        else:
            self._executor.submit(
                self._answer, number, name, lambda: self._perform(name, argument, task)
            )

    def _perform(self, name: str, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """Run one job in this thread."""
        task.check()
        return self._jobs[name](argument, task)

    def _start(
        self, number: int, task: Task, name: str, job: Carried, argument: dict[str, Any]
    ) -> None:
        """Have one job carried by its own thread, which answers."""
        try:
            future = job.start(argument, task)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self._answer(number, name, done.result))

    def _answer(self, number: int, name: str, result: Callable[[], dict[str, Any]]) -> None:
        """Send what has come of a job; nothing that it raises may be lost in a thread."""
        try:
            answer = {"id": number, "result": result()}
        except Cancelled:
            answer = {"id": number, "cancelled": True}
        except errors.CriProxyError as error:
            answer = {"id": number, "error": errors.to_wire(error)}
        except BaseException as error:  # noqa: BLE001 - the border: answered and logged
            answer = {"id": number, "error": _fault_of(name, error)}
        finally:
            del self._tasks[number]
        try:
            self._send(answer)
        except (FrameInvalid, TypeError, ValueError) as error:
            self._send({"id": number, "error": _fault_of(name, error)})

    def _send(self, message: dict[str, Any]) -> None:
        frame = encode_frame(message)
        try:
            with self._sending:
                self._sink.write(frame)
                self._sink.flush()
        except OSError:
            _leave(0)


def _jobs_of(
    build: Callable[[dict[str, Any]], Mapping[str, Job]], greeting: dict[str, Any]
) -> Mapping[str, Job]:
    """Return the table of jobs, or one in which every job fails as `build` did."""
    try:
        return build(greeting)
    except errors.CriProxyError as error:
        return _Failing(error)
    except Exception as error:  # noqa: BLE001 - the border of the process: answered and logged
        return _Failing(errors.of_wire(_fault_of("greeting", error)))


class _Failing(dict[str, Job]):
    """A table in which every job raises `error`."""

    def __init__(self, error: errors.CriProxyError) -> None:
        super().__init__()
        self._error = error

    def __missing__(self, name: str) -> Job:
        def fail(argument: dict[str, Any], task: Task) -> dict[str, Any]:
            raise self._error.with_traceback(None)

        return fail


def _fault_of(name: str, error: BaseException) -> dict[str, str]:
    """Log an exception that is not one of ours and return what the caller is told of it."""
    _logger.error("worker job %s failed unexpectedly", name, exc_info=error)
    return errors.to_wire(
        errors.InternalFault(
            f"the worker's job {name} failed unexpectedly, see the log for the traceback: "
            f"{type(error).__name__}: {error}"
        )
    )


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the protocol's pipes to ourselves: descriptors 0 and 1 become harmless ones."""
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
