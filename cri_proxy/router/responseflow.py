"""Flow control of response DATA: downstream's windows, which two senders share.

Downstream grants one connection window to the one peer that it knows, but two send into it.
Upstream is granted what downstream grants: the WINDOW_UPDATEs are forwarded. DATA of the interposer
uses the same window without upstream's knowledge, so it is recorded as a debt and withheld from
downstream's next grants to upstream. At any moment

    what upstream may send by its own count  =  room + debt - held bytes of upstream

where `room` is downstream's real window. Until a debt is repaid, upstream may send more than there
is room for. No DATA of either sender goes beyond the room: it is held here in order of arrival, and
so is every later frame of a stream with something held. The held bytes are bounded by the debt,
which is at most a window that downstream itself granted, and by the window that we grant to the
interposer and replenish only as its DATA leaves.

Stream windows of upstream are end to end and not touched here, with one exception: a padded frame
that is split to fit loses its padding, which is credited to its sender. Streams of the interposer
have a `ResponseWindow` each. The interposer gets the default initial window, whatever downstream
announces, and granted more when downstream's window is larger. What it sends beyond downstream's
window, because that was smaller or has been reduced since, is queued:

    granted to the interposer  =  downstream's window - queued - what the interposer may still send

So changed SETTINGS of downstream take effect at the right moment without involving the interposer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cri_proxy.router import frames

INTERPOSER_WINDOW_BYTES: Final = 1 << 20
"""The connection window that we grant to the interposer."""


@dataclass(slots=True, eq=False)
class ResponseWindow:
    """Downstream's window of one interposed stream, and the frames queued for it."""

    room: int
    """Bytes that downstream accepts on the stream."""
    granted: int = frames.INITIAL_WINDOW_BYTES
    """Bytes that the interposer may still send on the stream."""
    queue: deque[tuple[bytes, int]] = field(default_factory=deque)
    """Frames, each with its bytes of DATA: 0 for other kinds."""
    queued_bytes: int = 0

    def put(self, raw: bytes, size: int) -> int:
        """Queue a frame; return the padding removed from it. Raises Violation beyond the window."""
        self.granted -= size
        if size and self.granted < 0:
            raise frames.Violation(
                frames.FLOW_CONTROL_ERROR, "stream flow-control window was exceeded"
            )
        padding = 0
        if size > self.room or (size and self.queue):
            raw, padding = _without_padding(raw)
            size -= padding
        self.queue.append((raw, size))
        self.queued_bytes += size
        return padding

    def ready(self) -> Iterator[tuple[bytes, int]]:
        """Yield the frames that fit into downstream's window now, with their bytes of DATA."""
        while self.queue:
            raw, size = self.queue[0]
            if size > self.room:
                if self.room > 0:
                    part, rest = _cut(raw, self.room)
                    sent = self.room
                    self.queue[0] = rest, size - sent
                    self._sent(sent)
                    yield part, sent
                return
            self.queue.popleft()
            self._sent(size)
            yield raw, size

    def surplus(self) -> int:
        """Return the bytes to grant to the interposer now, and record them as granted."""
        surplus = max(0, self.room - self.queued_bytes - self.granted)
        self.granted += surplus
        return surplus

    def _sent(self, size: int) -> None:
        self.room -= size
        self.queued_bytes -= size


class Refund(NamedTuple):
    """Bytes that a sender counted and downstream never will, to be granted to the sender again."""

    is_interposed: bool
    stream: int
    size: int


@dataclass(slots=True, eq=False)
class _Held:
    stream: int
    raw: bytes
    size: int
    """Flow-controlled bytes: 0 for what is not DATA."""
    is_interposed: bool


@dataclass(slots=True, eq=False)
class ResponseFlow:
    """What is sent to downstream under its connection window."""

    _out: list[bytes]
    room: int = frames.INITIAL_WINDOW_BYTES
    """Bytes of DATA that downstream accepts now."""
    debt: int = 0
    """Bytes sent by the interposer that upstream does not know of."""
    held: deque[_Held] = field(default_factory=deque)
    held_streams: dict[int, int] = field(default_factory=dict)
    """The number of held frames of each stream that has any."""
    _upstream_bytes: int = 0
    _interposer_room: int = INTERPOSER_WINDOW_BYTES
    _interposer_credit: int = 0

    def put(self, stream: int, raw: bytes, size: int, *, is_interposed: bool) -> None:
        """Send a frame to downstream, or hold it; `size` is 0 if it is not DATA."""
        if not self.hold(stream, raw, size, is_interposed=is_interposed):
            self._out.append(raw)

    def hold(self, stream: int, raw: bytes, size: int, *, is_interposed: bool) -> bool:
        """Hold a frame if it has to wait, else count it as sent; return whether it is held.

        Raises Violation if upstream exceeded the window that it was granted.
        """
        if stream not in self.held_streams and not (size and (self.held or size > self.room)):
            self._count(size, is_interposed=is_interposed)
            return False
        if not is_interposed:
            self._upstream_bytes += size
            if self._upstream_bytes > self.room + self.debt:
                raise _exceeded()
        self.held.append(_Held(stream, raw, size, is_interposed))
        self.held_streams[stream] = self.held_streams.get(stream, 0) + 1
        return True

    def receive(self, size: int) -> None:
        """Count DATA of the interposer; raise Violation if it exceeds the window granted."""
        self._interposer_room -= size
        if self._interposer_room < 0:
            raise _exceeded()

    def drop(self, size: int) -> None:
        """Credit received bytes of the interposer that will not be sent to downstream."""
        self._interposer_credit += size

    def grant(self, increment: int) -> int:
        """Apply a grant of downstream; return what to forward of it to upstream.

        Raises Violation if the window exceeds the maximum.
        """
        if self.room + increment > frames.LARGEST_WINDOW:
            raise frames.Violation(
                frames.FLOW_CONTROL_ERROR, "connection flow-control window exceeds 2^31-1"
            )
        self.room += increment
        return self.repay(increment)

    def repay(self, increment: int) -> int:
        """Repay the debt from what upstream is to be granted; return what is left of that."""
        paid = min(self.debt, increment)
        self.debt -= paid
        return increment - paid

    def release(self) -> Sequence[Refund]:
        """Send held frames to downstream while there is room."""
        refunds: list[Refund] = []
        while self.held:
            head = self.held[0]
            if head.size > self.room:
                if self.room and (refund := self._split(head)):
                    refunds.append(refund)
                if head.size > self.room:
                    break
            self.held.popleft()
            self.held_streams[head.stream] -= 1
            if not self.held_streams[head.stream]:
                del self.held_streams[head.stream]
            self._out.append(head.raw)
            self._sent(head, head.size)
        return refunds

    def reset_interposer(self) -> None:
        """Start over for the next interposer connection; frames held of the last one stay."""
        self._interposer_room = INTERPOSER_WINDOW_BYTES
        self._interposer_credit = -sum(each.size for each in self.held if each.is_interposed)

    def interposer_grant(self) -> int:
        """Return the bytes to grant to the interposer now: none, or at least half a window."""
        credit = self._interposer_credit
        if credit < INTERPOSER_WINDOW_BYTES // 2:
            return 0
        self._interposer_credit = 0
        self._interposer_room += credit
        return credit

    def _count(self, size: int, *, is_interposed: bool) -> None:
        self.room -= size
        if is_interposed:
            self.debt += size
            self._interposer_credit += size

    def _sent(self, head: _Held, size: int) -> None:
        if not head.is_interposed:
            self._upstream_bytes -= size
        self._count(size, is_interposed=head.is_interposed)

    def _split(self, head: _Held) -> Refund | None:
        """Send as much of a DATA frame as there is room for; leave the rest of it in `head`."""
        head.raw, padding = _without_padding(head.raw)
        head.size -= padding
        if head.size > self.room:
            part, head.raw = _cut(head.raw, self.room)
            head.size -= self.room
            self._out.append(part)
            self._sent(head, self.room)
        if not padding:
            return None
        if head.is_interposed:
            self._interposer_credit += padding
        else:
            self._upstream_bytes -= padding
        return Refund(head.is_interposed, head.stream, padding)


def _without_padding(raw: bytes) -> tuple[bytes, int]:
    """Return a DATA frame without its padding, and how much that was."""
    _, flags, stream = frames.HEADER.unpack_from(raw)
    data = frames.unpadded(flags, raw[frames.HEADER_BYTES :])
    frame = frames.build(
        frames.DATA, flags & frames.END_STREAM, stream & frames.LARGEST_STREAM, data
    )
    return frame, len(raw) - len(frame)


def _cut(raw: bytes, size: int) -> tuple[bytes, bytes]:
    """Split a DATA frame without padding after `size` bytes of its payload."""
    _, flags, stream = frames.HEADER.unpack_from(raw)
    cut = frames.HEADER_BYTES + size
    part = frames.build(frames.DATA, 0, stream, raw[frames.HEADER_BYTES : cut])
    return part, frames.build(frames.DATA, flags, stream, raw[cut:])


def _exceeded() -> frames.Violation:
    return frames.Violation(
        frames.FLOW_CONTROL_ERROR, "connection flow-control window was exceeded"
    )
