"""The ledger of response DATA: what downstream's connection window has room for, and what waits.

Downstream grants one connection window to the one peer that it believes to have, but two send into
it. Upstream is granted what downstream grants: the WINDOW_UPDATEs pass through. DATA from the
interposer eats from the same window without upstream's knowledge, so it is written down as a debt
and withheld from downstream's next grants to upstream. At any moment

    what upstream believes to have  =  room + debt - what is held of upstream's

where `room` is downstream's true window. Until a debt is paid upstream may send more than there is
room for; no DATA goes beyond the room, whoever sent it, so it is held here, in the order of
arrival, and so is every later frame of a stream with something held. What is held is bounded: by
the debt, which is no larger than a window that downstream itself granted, and by the window that
we grant to the interposer, replenished only as its DATA leaves.

Stream windows are end to end and nothing here touches them, with one exception: a padded frame that
is split to fit the room loses its padding, which is credited to its sender.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from cri_proxy.router import frames

INTERPOSER_WINDOW_BYTES: Final = 1 << 20
"""The connection window that we grant to the interposer."""


class Refund(NamedTuple):
    """Bytes that a sender has counted and downstream never will, to be granted to it again."""

    is_interposers: bool
    stream: int
    size: int


class _Held:
    __slots__ = ("is_interposers", "payload", "raw", "size", "stream")

    def __init__(self, stream: int, raw: bytes, size: int, *, is_interposers: bool) -> None:
        self.stream = stream
        self.raw = raw
        self.size = size
        """Flow-controlled bytes: 0 for what is not DATA."""
        self.is_interposers = is_interposers


class Delivery:
    """What goes downstream under downstream's connection window."""

    __slots__ = (
        "_interposer_credit",
        "_interposer_room",
        "_out",
        "_upstream_bytes",
        "debt",
        "held",
        "room",
        "waiting",
    )

    def __init__(self, out: list[bytes]) -> None:
        self.room = frames.INITIAL_WINDOW_BYTES
        """Bytes of DATA that downstream takes now."""
        self.debt = 0
        """Bytes of the interposer's that upstream does not know of."""
        self.held: deque[_Held] = deque()
        self.waiting: dict[int, int] = {}
        """How many frames are held of each stream that has any."""
        self._out = out
        self._upstream_bytes = 0
        self._interposer_room = INTERPOSER_WINDOW_BYTES
        self._interposer_credit = 0

    def put(self, stream: int, raw: bytes, size: int, *, is_interposers: bool) -> None:
        """Send a frame downstream, or hold it; `size` is 0 if it is not DATA.

        Raises Violation if upstream went beyond the window that it was granted.
        """
        if stream in self.waiting or (size and (self.held or size > self.room)):
            if not is_interposers:
                self._upstream_bytes += size
                if self._upstream_bytes > self.room + self.debt:
                    raise frames.Violation(frames.FLOW_CONTROL_ERROR, "the window was exceeded")
            self.held.append(_Held(stream, raw, size, is_interposers=is_interposers))
            self.waiting[stream] = self.waiting.get(stream, 0) + 1
        else:
            self._out.append(raw)
            self._count(size, is_interposers=is_interposers)

    def receive(self, size: int) -> None:
        """Take note that DATA of the interposer's has come, whatever becomes of it.

        Raises Violation if the interposer went beyond the window that it was granted.
        """
        self._interposer_room -= size
        if self._interposer_room < 0:
            raise frames.Violation(frames.FLOW_CONTROL_ERROR, "the window was exceeded")

    def drop(self, size: int) -> None:
        """Take note that received bytes of the interposer's will not be put here."""
        self._interposer_credit += size

    def grant(self, increment: int) -> int:
        """Take downstream's grant; return what is to be passed on to upstream.

        Raises Violation if the window grows beyond what a window can be.
        """
        if self.room + increment > frames.LARGEST_WINDOW:
            raise frames.Violation(frames.FLOW_CONTROL_ERROR, "the connection window overflows")
        self.room += increment
        return self.repay(increment)

    def repay(self, increment: int) -> int:
        """Pay the debt from what upstream is to be granted; return what is left of it."""
        paid = min(self.debt, increment)
        self.debt -= paid
        return increment - paid

    def release(self) -> Sequence[Refund]:
        """Send downstream what there is room for now."""
        refunds: list[Refund] = []
        while self.held:
            head = self.held[0]
            if head.size > self.room:
                if self.room and (refund := self._split(head)):
                    refunds.append(refund)
                if head.size > self.room:
                    break
            self.held.popleft()
            left = self.waiting[head.stream] - 1
            if left:
                self.waiting[head.stream] = left
            else:
                del self.waiting[head.stream]
            self._out.append(head.raw)
            self._sent(head, head.size)
        return refunds

    def interposer_left(self) -> None:
        """Begin anew with the next interposer connection; what is held of the last one stays."""
        self._interposer_room = INTERPOSER_WINDOW_BYTES
        self._interposer_credit = -sum(each.size for each in self.held if each.is_interposers)

    def interposer_grant(self) -> int:
        """Return what to grant the interposer now: nothing, or half a window or more."""
        credit = self._interposer_credit
        if credit < INTERPOSER_WINDOW_BYTES // 2:
            return 0
        self._interposer_credit = 0
        self._interposer_room += credit
        return credit

    def _count(self, size: int, *, is_interposers: bool) -> None:
        self.room -= size
        if is_interposers:
            self.debt += size
            self._interposer_credit += size

    def _sent(self, head: _Held, size: int) -> None:
        if not head.is_interposers:
            self._upstream_bytes -= size
        self._count(size, is_interposers=head.is_interposers)

    def _split(self, head: _Held) -> Refund | None:
        """Send as much of a DATA frame as there is room for; leave the rest of it in `head`."""
        flags = head.raw[4]
        payload = head.raw[frames.HEADER_BYTES :]
        data = frames.unpadded(flags, payload)
        padding = len(payload) - len(data)
        end = flags & frames.END_STREAM
        if len(data) > self.room:
            part, data = data[: self.room], data[self.room :]
            self._out.append(frames.build(frames.DATA, 0, head.stream, part))
            self._sent(head, len(part))
        head.raw = frames.build(frames.DATA, end, head.stream, data)
        head.size = len(data)
        if not padding:
            return None
        if head.is_interposers:
            self._interposer_credit += padding
        else:
            self._upstream_bytes -= padding
        return Refund(head.is_interposers, head.stream, padding)
