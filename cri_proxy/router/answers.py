"""The response DATA of one lent stream: what downstream's stream window takes, and what waits.

The interposer is told the usual initial window, whatever downstream announces, and granted more
when downstream's own window is larger. What it sends beyond downstream's window, because that was
smaller or has since been reduced, waits here. So a change of downstream's SETTINGS takes effect
here at the right moment, a reduction when it is announced and an increase when downstream has its
acknowledgement, without the interposer's taking part.

    granted to the interposer  =  downstream's window - what waits - what the interposer has

The connection window is the business of `delivery`, to which all goes that may go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from cri_proxy.router import frames


class Answers:
    """The way of a lent stream from the interposer to downstream."""

    __slots__ = ("granted", "room", "waiting", "waiting_bytes")

    def __init__(self, room: int) -> None:
        self.room = room
        """Bytes that downstream takes on the stream."""
        self.granted = frames.INITIAL_WINDOW_BYTES
        """Bytes that the interposer believes it may send."""
        self.waiting: deque[tuple[bytes, int]] = deque()
        """Frames, and how many bytes of DATA they are; 0 if they are not DATA."""
        self.waiting_bytes = 0

    def put(self, raw: bytes, size: int) -> int:
        """Take a frame of the interposer's; return the bytes of padding that go no further.

        Raises Violation if the interposer went beyond its window.
        """
        self.granted -= size
        if size and self.granted < 0:
            raise frames.Violation(frames.FLOW_CONTROL_ERROR, "a stream window was exceeded")
        padding = 0
        if size > self.room or (size and self.waiting):
            flags = raw[4]
            payload = raw[frames.HEADER_BYTES :]
            data = frames.unpadded(flags, payload)
            padding = len(payload) - len(data)
            stream = int.from_bytes(raw[5:9], "big")
            raw, size = frames.build(frames.DATA, flags & 1, stream, data), len(data)
        self.waiting.append((raw, size))
        self.waiting_bytes += size
        return padding

    def ready(self) -> Iterator[tuple[bytes, int]]:
        """Give what downstream's window takes now: frames, and how many bytes of DATA they are."""
        while self.waiting:
            raw, size = self.waiting[0]
            if size > self.room:
                if self.room > 0:
                    stream = int.from_bytes(raw[5:9], "big")
                    cut = frames.HEADER_BYTES + self.room
                    part = raw[frames.HEADER_BYTES : cut]
                    rest = frames.build(frames.DATA, raw[4], stream, raw[cut:])
                    self.waiting[0] = rest, size - len(part)
                    self._leave(len(part))
                    yield frames.build(frames.DATA, 0, stream, part), len(part)
                return
            self.waiting.popleft()
            self._leave(size)
            yield raw, size

    def surplus(self) -> int:
        """Return what the interposer is to be granted now, and count it as granted."""
        surplus = self.room - self.waiting_bytes - self.granted
        if surplus <= 0:
            return 0
        self.granted += surplus
        return surplus

    def _leave(self, size: int) -> None:
        self.room -= size
        self.waiting_bytes -= size
