"""Flow control of request DATA of interposed calls, between downstream's windows and our peer's.

Downstream knows one peer, whose windows are upstream's: upstream's connection window, and for every
stream upstream's INITIAL_WINDOW_SIZE. The interposer has windows of its own. So each of its streams
has an `InterposedCall` that records what the interposer accepts and what downstream was granted;
DATA beyond the former is queued here, and downstream is granted more whenever the former grows
beyond the latter:

    granted to downstream  =  what the interposer accepts - queued - what downstream may still send

The connection window is shared with upstream and recorded here for both. Downstream's DATA to the
interposer uses bytes of it that upstream will never see, and so never grant again: they are owed to
downstream and granted at once, unless too much is queued. Hence the queues are bounded, and a slow
interposer slows down other calls only when they are full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from cri_proxy.router import frames
from cri_proxy.router.responseflow import ResponseWindow

QUEUED_BYTES: Final = 4 << 20
"""Above that, downstream's connection window is not replenished for interposed calls."""
LARGEST_GRANT: Final = 1 << 30
"""Stream windows are kept below that, so that an increase of the initial window still fits."""


class InterposedCall:
    """A call that the interposer answers: one stream, in both directions."""

    __slots__ = (
        "granted",
        "has_response_headers",
        "is_request_ended",
        "is_response_ended",
        "queue",
        "queued_bytes",
        "response",
        "stream",
        "window",
    )

    def __init__(self, stream: int, *, window: int, granted: int, response_room: int) -> None:
        self.stream = stream
        self.response = ResponseWindow(response_room)
        self.window = window
        """Bytes that the interposer accepts on this stream."""
        self.granted = granted
        """Bytes that downstream may still send on this stream."""
        self.queue: deque[tuple[bytes, int, bool]] = deque()
        """DATA with its END_STREAM flag and True, or whole frames of trailers with 0 and False."""
        self.queued_bytes = 0
        self.has_response_headers = False
        """Response headers have been sent to downstream."""
        self.is_request_ended = False
        self.is_response_ended = False

    @property
    def is_over(self) -> bool:
        """Both directions have ended and nothing is queued in either."""
        return (
            self.is_request_ended
            and self.is_response_ended
            and not self.queue
            and not self.response.queue
        )


class RequestFlow:
    """The interposed calls of a connection, and the windows that their requests share."""

    __slots__ = (
        "_blocked",
        "_out",
        "calls",
        "downstream_room",
        "owed",
        "queued_bytes",
        "room",
        "window",
    )

    def __init__(self, out: list[bytes]) -> None:
        self.calls: dict[int, InterposedCall] = {}
        self.downstream_room = frames.INITIAL_WINDOW_BYTES
        """Bytes of DATA that downstream may send on all streams: its connection window."""
        self.owed = 0
        """Bytes of that window to be granted again."""
        self.queued_bytes = 0
        self._out = out
        self._blocked: dict[int, InterposedCall] = {}
        self.begin()

    def begin(self) -> None:
        """Reset the interposer's windows for a new connection."""
        self.room = frames.INITIAL_WINDOW_BYTES
        self.window = frames.INITIAL_WINDOW_BYTES

    def open(self, stream: int, *, granted: int, response_room: int) -> InterposedCall:
        """Add a call; downstream may send `granted` bytes on it and accepts `response_room`."""
        call = InterposedCall(
            stream, window=self.window, granted=granted, response_room=response_room
        )
        self.calls[stream] = call
        return call

    def end(self, call: InterposedCall) -> None:
        """Remove a call with everything queued for it."""
        self.discard(call)
        del self.calls[call.stream]

    def discard(self, call: InterposedCall) -> None:
        """Drop what is queued for the interposer, which wants no more of the request."""
        self._blocked.pop(call.stream, None)
        self.queued_bytes -= call.queued_bytes
        call.queued_bytes = 0
        call.queue.clear()

    def data(self, call: InterposedCall, flags: int, payload: bytes) -> None:
        """Take the payload of a DATA frame from downstream, and send what the windows allow."""
        call.granted -= len(payload)
        self.owed += len(payload)
        data = frames.unpadded(flags, payload)
        call.queue.append((data, flags & frames.END_STREAM, True))
        call.queued_bytes += len(data)
        self.queued_bytes += len(data)
        self._flush(call)

    def trailers(self, call: InterposedCall, raw: bytes) -> None:
        """Send downstream's trailers, after the queued DATA."""
        if call.queue:
            call.queue.append((raw, 0, False))
        else:
            self._out.append(raw)

    def grant(self, increment: int) -> Sequence[InterposedCall]:
        """Apply a connection-level grant of the interposer; return the calls that waited for it."""
        self.room += increment
        blocked = tuple(self._blocked.values())
        for call in blocked:
            self._flush(call)
        return blocked

    def grant_stream(self, call: InterposedCall, increment: int) -> None:
        """Apply a grant of the interposer for one stream."""
        call.window += increment
        self._flush(call)

    def resize(self, window: int) -> None:
        """Apply the interposer's INITIAL_WINDOW_SIZE."""
        change = window - self.window
        self.window = window
        for call in self.calls.values():
            call.window += change
        for call in tuple(self._blocked.values()):
            self._flush(call)

    def change_granted(self, change: int) -> None:
        """Apply a change of upstream's INITIAL_WINDOW_SIZE, which downstream has got, too."""
        for call in self.calls.values():
            call.granted += change

    def surplus(self, call: InterposedCall) -> int:
        """Return the bytes to grant to downstream on the stream, and record them as granted."""
        if call.is_request_ended:
            return 0
        surplus = min(call.window - call.queued_bytes, LARGEST_GRANT) - call.granted
        if surplus <= 0:
            return 0
        call.granted += surplus
        return surplus

    def pay(self) -> int:
        """Return the bytes of its connection window to grant to downstream again now."""
        if self.queued_bytes > QUEUED_BYTES:
            return 0
        paid, self.owed = self.owed, 0
        self.downstream_room += paid
        return paid

    def _flush(self, call: InterposedCall) -> None:
        queue = call.queue
        while queue:
            data, end, is_data = queue[0]
            if not is_data:
                self._out.append(data)
                queue.popleft()
                continue
            size = min(len(data), self.room, call.window, frames.INITIAL_FRAME_BYTES)
            if data and size < len(data):
                if size > 0:
                    self._send(call, data[:size], 0)
                    queue[0] = data[size:], end, True
                    continue
                break
            queue.popleft()
            self._send(call, data, end)
        if queue:
            self._blocked[call.stream] = call
        else:
            self._blocked.pop(call.stream, None)

    def _send(self, call: InterposedCall, data: bytes, end: int) -> None:
        self._out.append(frames.build(frames.DATA, end, call.stream, data))
        size = len(data)
        self.room -= size
        call.window -= size
        call.queued_bytes -= size
        self.queued_bytes -= size
