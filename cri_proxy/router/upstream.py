"""What upstream sends, the runtime: frames that go to downstream, nearly all of them as they are.

A run of frames that may pass becomes one slice of what was received. Frames are looked at for what
they say of streams (see `streams`) and of windows: DATA goes through `delivery`, and waits there
if downstream's window is taken up by the interposer's; what upstream grants is downstream's to use.

- SETTINGS pass with small changes (see `terms`). Acknowledgements are noted, for what downstream
  has announced takes effect with them.
- PINGs and their answers pass.
- A GOAWAY names at least the last stream that is lent: downstream must not believe that a call was
  never looked at, and repeat it, when the interposer is at work on it.

What downstream should object to, downstream is left to object to.
"""

from __future__ import annotations

from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.interposition import Interposition
from cri_proxy.router.streams import ANSWER_OVER, Streams
from cri_proxy.router.terms import Effect, Limit, Terms

_header: Final = frames.HEADER.unpack_from


class Upstream:
    """Upstream's side of one connection."""

    __slots__ = (
        "_block",
        "_change_due",
        "_delivery",
        "_interposition",
        "_lending",
        "_out",
        "_sender",
        "_streams",
        "downstream_reader",
        "effect",
        "has_greeted",
        "is_heard",
        "limit",
        "reader",
        "receiver",
        "terms",
    )

    def __init__(self, streams: Streams, interposition: Interposition) -> None:
        self.reader = frames.FrameReader()
        self.downstream_reader = frames.FrameReader()
        """Reads what downstream sends: how long that may be, upstream says."""
        self.terms = Terms()
        self.effect = Effect()
        """Downstream's window of streams, as upstream may use it now."""
        self.limit = Limit()
        """Downstream's header table."""
        self.receiver = headers.HeaderReceiver()
        self.has_greeted = False
        """Its SETTINGS have come."""
        self.is_heard = False
        """It has sent headers or DATA since this was last reset."""
        self._streams = streams
        self._interposition = interposition
        self._lending = interposition.lending
        self._delivery = interposition.delivery
        self._out = interposition.to_downstream
        self._sender = headers.HeaderSender()
        self._block: headers.Block | None = None
        self._change_due = 0

    def receive(self, data: bytes) -> None:
        """Take upstream's bytes; raises Violation if it broke the protocol."""
        reader, out = self.reader, self._out
        if reader.pieces and not (data := reader.joined(data)):
            return
        streams, lending, delivery = self._streams, self._lending, self._delivery
        calls, largest, end = streams.calls, reader.largest, len(data)
        sender, waiting, held = self._sender, delivery.waiting, delivery.held
        is_plain = self._block is None
        start = passed = 0
        while end - start >= 9:
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            stop = start + 9 + length
            if stop > end or length > largest:
                break
            if is_plain:
                if kind == 0:  # DATA
                    self.is_heard = True
                    if not held and length <= delivery.room and 0 < stream < 0x80000000:
                        delivery.room -= length
                        if flags & 1:
                            streams.half_over(stream, ANSWER_OVER)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    self.is_heard = True
                    if (
                        flags & 0x2C == 4
                        and sender.is_stateless
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and not waiting
                        and 0 < stream < 0x80000000
                    ):
                        if flags & 1:
                            streams.half_over(stream, ANSWER_OVER)
                            if calls is not None:
                                calls.answer(stream, data[start + 9 : stop])
                        start = stop
                        continue
                elif kind == 6:  # PING
                    if not stream:
                        start = stop
                        continue
                elif kind == 8 and length == 4:  # WINDOW_UPDATE
                    if not stream & frames.LARGEST_STREAM:
                        increment = int.from_bytes(data[start + 9 : stop], "big")
                        lending.downstream_room += increment & frames.LARGEST_WINDOW
                    start = stop
                    continue
            stream &= frames.LARGEST_STREAM
            instead = self._frame(data[start:stop], kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(data[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
            start = stop
            is_plain, largest = self._block is None, reader.largest
        if passed < start:
            out.append(data if start - passed == end else data[passed:start])
        if self._change_due:  # the acknowledgement itself goes first
            change, self._change_due = self._change_due, 0
            self._interposition.resize(change)
        if start < end:
            reader.keep(data[start:])

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes | None:
        """Return what goes downstream instead of the frame, None if it passes as it is."""
        if self._block is not None:
            if not self._block.extend(raw, kind, flags, stream):
                return b""
            block, self._block = self._block, None
            whole = block.whole()
            instead = self._answer(whole)
            return whole.raw if instead is None else instead
        frames.check_stream(kind, stream)
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                if flags & frames.END_STREAM:
                    self._streams.half_over(stream, ANSWER_OVER)
                return self._behind(stream, raw, len(payload))
            case frames.HEADERS:
                block = headers.Block(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._answer(block.whole())
                self._block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.misplaced(kind)
            case frames.SETTINGS:
                return self._settings(flags, payload)
            case frames.WINDOW_UPDATE if not stream:
                self._lending.downstream_room += frames.number(payload) & frames.LARGEST_WINDOW
            case frames.GOAWAY:
                return self._goaway(payload)
            case frames.RST_STREAM:
                self._streams.reset(stream, frames.number(payload))
                return self._behind(stream, raw, 0)
        return None

    def _answer(self, answer: headers.Fields) -> bytes | None:
        """Return what goes downstream of a header block, None if it as it came."""
        streams = self._streams
        if answer.flags & frames.END_STREAM:
            streams.half_over(answer.stream, ANSWER_OVER)
        if self._sender.is_to_be_read(answer.fragment):
            answer.block, _ = self._sender.read(answer.fragment)
        if streams.calls is not None and answer.flags & frames.END_STREAM:
            streams.calls.answer(answer.stream, answer.block)
        if not answer.is_changed:
            return self._behind(answer.stream, answer.raw, 0)
        again = answer.reframed()
        return again if self._behind(answer.stream, again, 0) is None else b""

    def _behind(self, stream: int, raw: bytes, size: int) -> bytes | None:
        """Hold a frame if it must wait; return None if it passes as it is."""
        delivery = self._delivery
        if stream not in delivery.waiting and not (
            size and (delivery.held or size > delivery.room)
        ):
            delivery.room -= size
            return None
        delivery.put(stream, raw, size, is_interposers=False)
        return b""

    def _settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            self._sender.is_bound = True
            self._change_due += self.effect.acknowledge()
            return None
        told, change = self.terms.announce(payload)
        self.has_greeted = True
        self.limit.passed()
        largest = max(self.downstream_reader.largest, self.terms.frame_bytes)
        self.downstream_reader.largest = largest
        self._lending.believe(change)
        return frames.build(frames.SETTINGS, 0, 0, told)

    def _goaway(self, payload: bytes) -> bytes | None:
        last = frames.number(payload) & frames.LARGEST_STREAM
        told = self._streams.bound(max(last, max(self._interposition.loans, default=0)))
        for stream in [each for each in self._streams.open if last < each <= told]:
            self._streams.reset(stream, frames.REFUSED_STREAM)
            self._out.append(frames.rst_stream(stream, frames.REFUSED_STREAM))
        if told == last:
            return None
        return frames.build(frames.GOAWAY, 0, 0, told.to_bytes(4, "big") + payload[4:])
