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
from dataclasses import dataclass, field
from typing import Final

from cri_proxy.router import frames
from cri_proxy.router.responseflow import ResponseWindow

QUEUED_BYTES: Final = 4 << 20
"""Above that, downstream's connection window is not replenished for interposed calls."""
LARGEST_GRANT: Final = 1 << 30
"""Stream windows are kept below that, so that an increase of the initial window still fits."""


@dataclass(slots=True, eq=False)
class InterposedCall:
    """A call that the interposer answers: one stream, in both directions."""

    stream: int
    response: ResponseWindow
    window: int
    """Bytes that the interposer accepts on this stream."""
    granted: int
    """Bytes that downstream may still send on this stream."""
    queue: deque[tuple[bytes, int, bool]] = field(default_factory=deque)
    """DATA with its END_STREAM flag and True, or whole frames of trailers with 0 and False."""
    queued_bytes: int = 0
    has_response_headers: bool = False
    """Response headers have been sent to downstream."""
    is_request_ended: bool = False
    is_response_ended: bool = False

    @property
    def is_over(self) -> bool:
        """Both directions have ended and nothing is queued in either."""
        return (
            self.is_request_ended
            and self.is_response_ended
            and not self.queue
            and not self.response.queue
        )


@dataclass(slots=True, eq=False)
class RequestFlow:
    """The interposed calls of a connection, and the windows that their requests share."""

    _out: list[bytes]
    calls: dict[int, InterposedCall] = field(default_factory=dict)
    downstream_room: int = frames.INITIAL_WINDOW_BYTES
    """Bytes of DATA that downstream may send on all streams: its connection window."""
    owed: int = 0
    """Bytes of that window to be granted again."""
    queued_bytes: int = 0
    room: int = frames.INITIAL_WINDOW_BYTES
    """Bytes of DATA that the interposer accepts on all streams."""
    window: int = frames.INITIAL_WINDOW_BYTES
    """The interposer's INITIAL_WINDOW_SIZE."""
    _blocked: dict[int, InterposedCall] = field(default_factory=dict)

    def begin(self) -> None:
        """Reset the interposer's windows for a new connection."""
        self.room = self.window = frames.INITIAL_WINDOW_BYTES

    def open(self, stream: int, *, granted: int, response_room: int) -> InterposedCall:
        """Add a call; downstream may send `granted` bytes on it and accepts `response_room`."""
        call = InterposedCall(stream, ResponseWindow(response_room), self.window, granted)
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
        surplus = max(0, min(call.window - call.queued_bytes, LARGEST_GRANT) - call.granted)
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
            size = min(len(data), self.room, call.window, frames.INITIAL_FRAME_BYTES)
            if not is_data:
                self._out.append(queue.popleft()[0])
            elif not data or size == len(data):
                queue.popleft()
                self._send(call, data, end)
            elif size > 0:
                self._send(call, data[:size], 0)
                queue[0] = data[size:], end, True
            else:
                break
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
