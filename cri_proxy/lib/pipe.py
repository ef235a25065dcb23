"""Messages between the daemon and a worker, in frames, in both directions.

A frame is four bytes of length, most significant first, and that many bytes of JSON:

    to the worker     {"type": "init", "settings": {...}, "nice": 10}            once, first
                      {"type": "start", "id": 7, "job": "store.fetch", "argument": ...}
                      {"type": "cancel", "id": 7}
    from the worker   {"type": "counts", "increments": [...]}                    before any other
                      {"type": "progress", "id": 7, "report": ...}               any number of times
                      {"type": "result", "id": 7, "result": ...}                 or
                      {"type": "error", "id": 7, "error": {"kind", "message"}}   or, after a cancel,
                      {"type": "cancelled", "id": 7}

Settings, arguments, reports and results stay encoded here (`msgspec.Raw`): which class they are of
is known to the job.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final, TypeVar, cast

import msgspec

from cri_proxy.errors import ErrorRecord
from cri_proxy.lib import codec
from cri_proxy.lib.meters import Increment

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
HEAD_BYTES: Final = 4
_LENGTH: Final = struct.Struct(">I")

T = TypeVar("T")


class FrameInvalid(Exception):
    """The other side of the pipe broke the protocol; nothing after this can be trusted."""


class InitMessage(msgspec.Struct, frozen=True, tag="init"):
    """The first message to a worker: what its jobs are built from, and its niceness."""

    settings: msgspec.Raw
    nice: int


class StartMessage(msgspec.Struct, frozen=True, tag="start"):
    """Start a job."""

    id: int
    job: str
    argument: msgspec.Raw


class CancelMessage(msgspec.Struct, frozen=True, tag="cancel"):
    """Cancel a job, if it still runs."""

    id: int


class ProgressMessage(msgspec.Struct, frozen=True, tag="progress"):
    """A report of a job that goes on."""

    id: int
    report: msgspec.Raw


class ResultMessage(msgspec.Struct, frozen=True, tag="result"):
    """The end of a job that succeeded."""

    id: int
    result: msgspec.Raw


class ErrorMessage(msgspec.Struct, frozen=True, tag="error"):
    """The end of a job that failed."""

    id: int
    error: ErrorRecord


class CancelledMessage(msgspec.Struct, frozen=True, tag="cancelled"):
    """The end of a job that was cancelled."""

    id: int


class CountsMessage(msgspec.Struct, frozen=True, tag="counts"):
    """What the worker's counters have grown by since its last message of this kind."""

    increments: tuple[Increment, ...]


ToWorker = StartMessage | CancelMessage
End = ResultMessage | ErrorMessage | CancelledMessage
FromWorker = CountsMessage | ProgressMessage | End
TO_WORKER: Final = cast("type[ToWorker]", ToWorker)
FROM_WORKER: Final = cast("type[FromWorker]", FromWorker)


def frame_of(message: InitMessage | ToWorker | FromWorker) -> bytes:
    """Return the frame of a message; raise FrameInvalid when it is beyond MAX_FRAME_BYTES."""
    payload = codec.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameInvalid(f"a message of {len(payload)} bytes is beyond {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


def length_of(head: bytes) -> int:
    """Return the payload's length that the HEAD_BYTES of `head` announce."""
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_FRAME_BYTES:
        raise FrameInvalid(f"a frame of {length} bytes was announced, beyond {MAX_FRAME_BYTES}")
    return length


def message_of(payload: bytes, kind: type[T]) -> T:
    """Return the message in a frame's payload; raise FrameInvalid if it is of another kind."""
    try:
        return codec.decode(payload, kind)
    except ValueError as error:
        raise FrameInvalid(f"a frame has no message that is known: {error}") from error


def read(source: BinaryIO, kind: type[T]) -> T | None:
    """Return the next message, or None where the stream ends, even within a frame."""
    head = source.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    length = length_of(head)
    payload = source.read(length)
    return None if len(payload) < length else message_of(payload, kind)
