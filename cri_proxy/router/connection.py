"""One connection of kubelet's, with its two others: bytes in, bytes out, and no socket.

Bytes of a side go into `receive_downstream`, `receive_upstream` or `receive_interposer`; what is to
be written gathers in `to_downstream`, `to_upstream` and `to_interposer`, lists that the caller
empties. A run of frames that may pass as they are becomes one slice of what was received.

- A stream that downstream opens is upstream's, unless its method is interposed: then it is lent
  (see `lending`). Frames of a stream follow it. The streams of recent loans are remembered, so
  that what downstream still sends on them reaches nobody.
- SETTINGS, PING and GOAWAY pass between downstream and upstream, the first with small changes (see
  `terms`). With the interposer we speak for ourselves, and we answer the PINGs that it provokes.
- A GOAWAY of upstream's names at least the last stream that is lent: downstream must not believe
  that a call was never looked at, and repeat it, when the interposer is at work on it.
- Windows are kept by ledgers: `delivery` and `answers` towards downstream, `lending` from it.
- Without the interposer its calls are answered with UNAVAILABLE; all others do not notice.

What upstream should object to, upstream is left to object to. What we object to ourselves is what
we could not forward correctly, and what goes beyond our bounds: the connection ends with GOAWAY.
No input raises an exception out of this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.delivery import INTERPOSER_WINDOW_BYTES, Delivery
from cri_proxy.router.frames import Violation
from cri_proxy.router.lending import Lending, Loan
from cri_proxy.router.terms import Effect, Terms

LARGEST_STREAMS: Final = 1 << 16
"""Open streams of one connection."""
REMEMBERED_LOANS: Final = 4096
"""Streams of past loans on which downstream's late frames are still recognized."""
DRAIN_PING: Final = b"cripxdrn"
"""The payload of our own PING, which marks how far downstream has read."""

_REQUEST_OVER: Final = 1
_ANSWER_OVER: Final = 2
_ENDLESS: Final = 4

_UNAVAILABLE: Final = b"14"


class Side(IntEnum):
    """Where bytes come from and go to."""

    DOWNSTREAM = 0
    UPSTREAM = 1
    INTERPOSER = 2


class Method(IntEnum):
    """What the methods that are looked for stand for."""

    INTERPOSED = 1
    ENDLESS = 2


class _Interposer(Enum):
    ABSENT = 0
    WANTED = 1
    OPEN = 2
    LEAVING = 3


class Connection:
    """The three sides of one connection: what may be read, what is to be written."""

    def __init__(self, needles: headers.Needles) -> None:
        self.to_downstream: list[bytes] = []
        self.to_upstream: list[bytes] = []
        self.to_interposer: list[bytes] = []
        self.is_over = False
        """Nothing more will come: write what is to be written, then close all sides."""
        self.needs_attention = False
        """Something other than bytes to write has changed; the caller looks, and resets it."""
        self.reason = ""
        """Why it is over, if it was for a fault."""
        self._needles = needles
        self._preface = frames.PREFACE
        self._paused: set[Side] = set()
        self._has_answered_unread = False
        self._interposer = _Interposer.ABSENT

        self._streams: dict[int, int] = {}
        self._past_loans: dict[int, None] = {}
        self._past_order: deque[int] = deque()
        self._highest = 0
        self._highest_upstream = 0
        self._last: int | None = None

        self._downstream_room = frames.INITIAL_WINDOW_BYTES
        self._delivery = Delivery(self.to_downstream)
        self._lending = Lending(self.to_interposer)

        self._downstream_frames = frames.Reader()
        self._downstream_terms = Terms()
        self._downstream_sender = headers.Sender()
        self._request_block: headers.Block | None = None

        self._upstream_frames = frames.Reader()
        self._upstream_terms = Terms()
        self._upstream_sender = headers.Sender()
        self._upstream_receiver = headers.Receiver()
        self._answer_block: headers.Block | None = None
        self._has_greeted = False

        self._settings = 0
        self._effect = Effect()
        self._is_upstream_heard = False
        self._is_interposer_heard = False
        self._change_due = 0

        self._is_draining = False
        self._is_last_told = False
        self._begin_interposer()

    # What the caller of the core asks and tells

    @property
    def wants_interposer(self) -> bool:
        """A connection to the interposer is to be opened, then `interposer_opened` or `_lost`."""
        return self._interposer is _Interposer.WANTED

    @property
    def has_interposer(self) -> bool:
        """A connection to the interposer is wanted or stands; if not, what there is can go."""
        return self._interposer is not _Interposer.ABSENT

    @property
    def has_begun(self) -> bool:
        """Downstream has sent its preface and its SETTINGS."""
        return self._settings > 0

    def may_read(self, side: Side) -> bool:
        """Return whether the side's bytes are wanted now: back-pressure."""
        if side is not Side.DOWNSTREAM:
            return Side.DOWNSTREAM not in self._paused
        return not (
            Side.UPSTREAM in self._paused
            or Side.INTERPOSER in self._paused
            or self._interposer is _Interposer.WANTED
            or self._has_answered_unread
        )

    def pause(self, side: Side) -> None:
        """Take note that a side does not read what is written to it."""
        self._paused.add(side)

    def resume(self, side: Side) -> None:
        """Take note that the side reads again."""
        self._paused.discard(side)
        if side is Side.DOWNSTREAM:
            self._has_answered_unread = False
            self._pay()

    def receive_downstream(self, data: bytes) -> None:
        """Take bytes from downstream."""
        if self.is_over:
            return
        try:
            if self._preface:
                data = self._begin(data)
            self._of_downstream(data)
            self._after()
        except Violation as violation:
            self._refuse(violation)

    def receive_upstream(self, data: bytes) -> None:
        """Take bytes from upstream."""
        if self.is_over:
            return
        try:
            self._of_upstream(data)
            self._after()
        except Violation as violation:
            reason = f"the runtime broke the protocol: {violation.reason}"
            self._refuse(Violation(frames.INTERNAL_ERROR, reason))

    def receive_interposer(self, data: bytes) -> None:
        """Take bytes from the interposer."""
        if self.is_over:
            return
        try:
            self._of_interposer(data)
        except Violation as violation:
            self.interposer_lost(f"the interposer broke the protocol: {violation.reason}")
        self._after()

    def interposer_opened(self) -> None:
        """Take note that the connection to the interposer stands."""
        self._become(_Interposer.OPEN)

    def interposer_lost(self, reason: str) -> None:
        """Take note that there is no connection to the interposer; its calls get `reason`."""
        if self._interposer is _Interposer.ABSENT:
            return
        self._become(_Interposer.ABSENT)
        self._paused.discard(Side.INTERPOSER)
        self.to_interposer.clear()
        for loan in tuple(self._lending.loans.values()):
            self._answer_unavailable(loan, reason)
        self._delivery.interposer_left()
        self._begin_interposer()
        self._after()

    def upstream_lost(self) -> None:
        """Take note that upstream is gone, and so is the connection."""
        self._finish()

    def drain(self) -> None:
        """Ask downstream to open no more streams here; be over when its streams are.

        1. A GOAWAY that excludes nothing asks; streams on their way are still taken.
        2. A PING follows it, and its answer comes behind every stream that was on its way.
        3. Then the GOAWAY that names the last stream taken, and the end when all are over but
           the endless ones: these end with the connection.
        """
        if self._is_draining or self.is_over:
            return
        self._is_draining = True
        if not self._has_greeted:
            self._finish()
            return
        self.to_downstream.append(frames.goaway(frames.LARGEST_STREAM, frames.NO_ERROR))
        self.to_downstream.append(frames.build(frames.PING, 0, 0, DRAIN_PING))

    def __repr__(self) -> str:
        state = "over" if self.is_over else "draining" if self._is_draining else "open"
        return (
            f"<Connection {state}, {len(self._streams)} upstream, {len(self._lending.loans)} lent>"
        )

    # Downstream's frames

    def _begin(self, data: bytes) -> bytes:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise Violation(frames.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[size:]
        if not self._preface:
            self.to_upstream.append(frames.PREFACE)
        return data[size:]

    def _of_downstream(self, data: bytes) -> None:
        buffer, found = self._downstream_frames.feed(data)
        streams, out, delivery = self._streams, self.to_upstream, self._delivery
        is_plain = self._settings and not self._is_draining
        passed = stop = 0
        for start, stop, kind, flags, stream in found:
            if self._request_block is None:
                if kind == frames.DATA and stream in streams:
                    self._downstream_room -= stop - start - 9
                    if flags & 1:
                        self._half_over(stream, _REQUEST_OVER)
                    continue
                if not stream and is_plain:
                    if kind == frames.PING and flags & frames.ACK:
                        continue
                    if kind == frames.WINDOW_UPDATE and stop - start == 13:
                        room = delivery.room + int.from_bytes(buffer[start + 9 : stop], "big")
                        if not delivery.debt and not delivery.held and room < frames.LARGEST_WINDOW:
                            delivery.room = room
                            continue
            instead = self._downstream_frame(buffer, start, stop, kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(buffer[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
        if passed < stop:
            out.append(buffer if stop - passed == len(buffer) else buffer[passed:stop])
        if self._downstream_room < 0:
            raise Violation(frames.FLOW_CONTROL_ERROR, "the connection window was exceeded")
        if self._downstream_frames.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")

    def _downstream_frame(
        self, buffer: bytes, start: int, stop: int, kind: int, flags: int, stream: int
    ) -> bytes | None:
        """Return what goes upstream instead of the frame, None if it passes as it is."""
        if self._request_block is not None:
            return self._request_continued(buffer[start:stop], kind, flags, stream)
        payload = buffer[start + frames.HEADER_BYTES : stop]
        if not self._settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        _check_stream(kind, stream)
        loan = self._lending.loans.get(stream) if stream else None
        match kind:
            case frames.HEADERS:
                if not flags & frames.END_HEADERS:
                    self._request_block = headers.Block(flags, stream, buffer[start:stop])
                    return b""
                priority, fragment = headers.fragment_of(flags, payload)
                return self._request(stream, flags, priority, fragment, buffer[start:stop])
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise Violation(frames.PROTOCOL_ERROR, f"a frame of kind {kind} has no place here")
            case frames.SETTINGS:
                return self._downstream_settings(flags, payload)
            case frames.PING if flags & frames.ACK and payload == DRAIN_PING:
                return self._drain_further()
            case frames.PING if not flags & frames.ACK:
                return self._ping(payload)
            case frames.WINDOW_UPDATE if not stream:
                return self._downstream_grant(frames.number(payload))
            case frames.DATA if loan:
                self._downstream_room -= len(payload)
                loan.is_request_over |= bool(flags & frames.END_STREAM)
                self._lending.data(loan, flags, payload)
                self._end_if_over(loan)
                return b""
            case frames.DATA:
                self._downstream_room -= len(payload)
                if stream in self._past_loans:
                    self._lending.owed += len(payload)
                    return b""
            case frames.RST_STREAM if loan:
                self._drop_answers(loan)
                self._end_loan(loan)
                self.to_interposer.append(buffer[start:stop])
                return b""
            case frames.RST_STREAM:
                self._streams.pop(stream, None)
            case frames.WINDOW_UPDATE if loan:
                loan.answers.room += frames.number(payload) & frames.LARGEST_WINDOW
                self._deliver(loan)
                return b""
            case frames.PRIORITY if loan:
                return b""
        if loan:
            self.to_interposer.append(buffer[start:stop])
            return b""
        return b"" if stream in self._past_loans else None

    def _request_continued(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes:
        block = self._request_block
        assert block is not None
        if kind != frames.CONTINUATION or stream != block.stream:
            raise Violation(frames.PROTOCOL_ERROR, "a header block was interrupted")
        block.extend(raw)
        if not flags & frames.END_HEADERS:
            return b""
        self._request_block = None
        whole = block.raw
        instead = self._request(stream, block.flags, block.priority, block.fragment, whole)
        return whole if instead is None else instead

    def _request(
        self, stream: int, flags: int, priority: bytes, fragment: bytes, raw: bytes
    ) -> bytes | None:
        """Find out whose a header block is; return what goes upstream, None if it as it came."""
        block, read = fragment, None
        if _is_to_be_read(self._downstream_sender, fragment):
            block, read = self._downstream_sender.read(fragment)
        end = flags & frames.END_STREAM
        if stream in self._streams:
            if end:
                self._half_over(stream, _REQUEST_OVER)
        elif loan := self._lending.loans.get(stream):
            self._lending.trailers(loan, self._lent(stream, flags, priority, block, raw, fragment))
            loan.is_request_over |= bool(end)
            self._end_if_over(loan)
            return b""
        elif stream in self._past_loans:
            return b""
        elif stream <= self._highest:
            if stream > self._highest_upstream:
                raise Violation(frames.PROTOCOL_ERROR, "a stream was opened out of order")
        elif self._last is not None and stream > self._last:
            self._highest = stream
            self._remember(stream)
            return b""
        else:
            self._highest = stream
            meaning = (
                self._needles.meaning(fragment) if read is None else self._needles.meaning_of(read)
            )
            if len(self._streams) + len(self._lending.loans) >= LARGEST_STREAMS:
                raise Violation(frames.ENHANCE_YOUR_CALM, f"over {LARGEST_STREAMS} open streams")
            if meaning == Method.INTERPOSED:
                self._lend(stream, flags, self._lent(stream, flags, priority, block, raw, fragment))
                return b""
            self._highest_upstream = stream
            self._streams[stream] = (_ENDLESS if meaning == Method.ENDLESS else 0) | end
        if not self._upstream_receiver.is_closed:
            block = self._upstream_receiver.close(block)
        if block is fragment:
            return None
        return frames.headers(stream, block, flags=flags, priority=priority)

    def _lent(
        self, stream: int, flags: int, priority: bytes, block: bytes, raw: bytes, fragment: bytes
    ) -> bytes:
        """Return a header block in the frames that the interposer is to get."""
        if not self._interposer_receiver.is_closed:
            block = self._interposer_receiver.close(block)
        if block is fragment and len(raw) <= frames.INITIAL_FRAME_BYTES:
            return raw
        return frames.headers(stream, block, flags=flags, priority=priority)

    def _lend(self, stream: int, flags: int, raw: bytes) -> None:
        if self._interposer is _Interposer.ABSENT:
            self._become(_Interposer.WANTED)
            self.to_interposer.append(frames.PREFACE)
            summary = self._downstream_terms.summary()
            self.to_interposer.append(frames.build(frames.SETTINGS, 0, 0, summary))
            more = INTERPOSER_WINDOW_BYTES - frames.INITIAL_WINDOW_BYTES
            self.to_interposer.append(frames.window_update(0, more))
        loan = self._lending.open(
            stream,
            belief=self._upstream_terms.window_bytes,
            answer_room=self._effect.window_bytes,
        )
        loan.is_request_over = bool(flags & frames.END_STREAM)
        if self._interposer is _Interposer.LEAVING:
            self._answer_unavailable(loan, "the interposer is stopping")
            return
        self.to_interposer.append(raw)
        self._tell_surplus(loan)
        self._deliver(loan)

    def _downstream_settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            if payload:
                raise Violation(frames.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            self._downstream_sender.is_bound = self._has_greeted
            return None
        self._settings += 1
        told, _ = self._downstream_terms.announce(payload)
        largest = max(self._upstream_frames.largest, self._downstream_terms.frame_bytes)
        self._upstream_frames.largest = largest
        self._take_effect(self._effect.announce(self._downstream_terms.window_bytes))
        return frames.build(frames.SETTINGS, 0, 0, told)

    def _take_effect(self, change: int) -> None:
        """Change the windows that downstream has on lent streams."""
        for loan in tuple(self._lending.loans.values()):
            loan.answers.room += change
            self._deliver(loan)

    def _ping(self, payload: bytes) -> bytes | None:
        """Answer a PING that the interposer has provoked; let others pass.

        A gRPC client measures with one whenever DATA comes, and a runtime in Go ends a connection
        ("too_many_pings") that brings some without its having sent anything itself in between.
        """
        is_provoked = self._is_interposer_heard and not self._is_upstream_heard
        self._is_interposer_heard = self._is_upstream_heard = False
        if not is_provoked or len(payload) != 8:
            return None
        self.to_downstream.append(frames.build(frames.PING, frames.ACK, 0, payload))
        return b""

    def _downstream_grant(self, increment: int) -> bytes | None:
        increment &= frames.LARGEST_WINDOW
        left = self._delivery.grant(increment)
        if self._delivery.held:
            for refund in self._delivery.release():
                if refund.is_interposers:
                    self.to_interposer.append(frames.window_update(refund.stream, refund.size))
                else:
                    left += self._delivery.repay(refund.size)
                    self.to_upstream.append(frames.window_update(refund.stream, refund.size))
        if left == increment:
            return None
        return frames.window_update(0, left) if left else b""

    # Upstream's frames

    def _of_upstream(self, data: bytes) -> None:
        buffer, found = self._upstream_frames.feed(data)
        delivery, out = self._delivery, self.to_downstream
        sender, waiting, held = self._upstream_sender, delivery.waiting, delivery.held
        passed = stop = 0
        for start, stop, kind, flags, stream in found:
            if kind <= frames.HEADERS:
                self._is_upstream_heard = True
            if self._answer_block is None:
                if kind == frames.DATA:
                    size = stop - start - 9
                    if not held and size <= delivery.room and stream:
                        delivery.room -= size
                        if flags & 1:
                            self._half_over(stream, _ANSWER_OVER)
                        continue
                elif (
                    kind == frames.HEADERS
                    and flags & 0x2C == frames.END_HEADERS
                    and sender.is_stateless
                    and stop - start > 9
                    and buffer[start + 9] & headers.SIZE_UPDATE_MASK != headers.SIZE_UPDATE
                    and not waiting
                    and stream
                ):
                    if flags & 1:
                        self._half_over(stream, _ANSWER_OVER)
                    continue
                elif not stream and kind == frames.PING:
                    continue
                elif kind == frames.WINDOW_UPDATE and stop - start == 13:
                    if not stream:
                        increment = int.from_bytes(buffer[start + 9 : stop], "big")
                        self._downstream_room += increment & frames.LARGEST_WINDOW
                    continue
            instead = self._upstream_frame(buffer, start, stop, kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(buffer[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
        if passed < stop:
            out.append(buffer if stop - passed == len(buffer) else buffer[passed:stop])
        if self._change_due:  # the acknowledgement itself goes first
            change, self._change_due = self._change_due, 0
            self._take_effect(change)
        if self._upstream_frames.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")

    def _upstream_frame(
        self, buffer: bytes, start: int, stop: int, kind: int, flags: int, stream: int
    ) -> bytes | None:
        """Return what goes downstream instead of the frame, None if it passes as it is."""
        raw = buffer[start:stop]
        if self._answer_block is not None:
            return self._answer_continued(raw, kind, flags, stream)
        _check_stream(kind, stream)
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                if flags & frames.END_STREAM:
                    self._half_over(stream, _ANSWER_OVER)
                return self._behind(stream, raw, len(payload))
            case frames.HEADERS:
                if not flags & frames.END_HEADERS:
                    self._answer_block = headers.Block(flags, stream, raw)
                    return b""
                priority, fragment = headers.fragment_of(flags, payload)
                return self._answer(stream, flags, priority, fragment, raw)
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise Violation(frames.PROTOCOL_ERROR, f"a frame of kind {kind} has no place here")
            case frames.SETTINGS:
                return self._upstream_settings(flags, payload)
            case frames.WINDOW_UPDATE if not stream:
                self._downstream_room += frames.number(payload) & frames.LARGEST_WINDOW
            case frames.GOAWAY:
                return self._upstream_goaway(payload)
            case frames.RST_STREAM:
                self._streams.pop(stream, None)
                return self._behind(stream, raw, 0)
        return None

    def _answer_continued(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes:
        block = self._answer_block
        assert block is not None
        if kind != frames.CONTINUATION or stream != block.stream:
            raise Violation(frames.PROTOCOL_ERROR, "a header block was interrupted")
        block.extend(raw)
        if not flags & frames.END_HEADERS:
            return b""
        self._answer_block = None
        whole = block.raw
        instead = self._answer(stream, block.flags, block.priority, block.fragment, whole)
        return whole if instead is None else instead

    def _answer(
        self, stream: int, flags: int, priority: bytes, fragment: bytes, raw: bytes
    ) -> bytes | None:
        """Return what goes downstream of upstream's header block, None if it as it came."""
        if flags & frames.END_STREAM:
            self._half_over(stream, _ANSWER_OVER)
        block = fragment
        if _is_to_be_read(self._upstream_sender, fragment):
            block, _ = self._upstream_sender.read(fragment)
        if block is fragment:
            return self._behind(stream, raw, 0)
        again = frames.headers(stream, block, flags=flags, priority=priority)
        return again if self._behind(stream, again, 0) is None else b""

    def _behind(self, stream: int, raw: bytes, size: int) -> bytes | None:
        """Hold upstream's frame if it must wait; return None if it passes as it is."""
        delivery = self._delivery
        if stream not in delivery.waiting and not (
            size and (delivery.held or size > delivery.room)
        ):
            delivery.room -= size
            return None
        delivery.put(stream, raw, size, is_interposers=False)
        return b""

    def _upstream_settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            self._upstream_sender.is_bound = True
            self._change_due += self._effect.acknowledge()
            return None
        told, change = self._upstream_terms.announce(payload)
        self._has_greeted = True
        largest = max(self._downstream_frames.largest, self._upstream_terms.frame_bytes)
        self._downstream_frames.largest = largest
        self._lending.believe(change)
        return frames.build(frames.SETTINGS, 0, 0, told)

    def _upstream_goaway(self, payload: bytes) -> bytes | None:
        last = frames.number(payload) & frames.LARGEST_STREAM
        told = max(last, max(self._lending.loans, default=0))
        if self._last is not None:
            told = min(told, self._last)
        self._last = told
        for stream in [each for each in self._streams if last < each <= told]:
            del self._streams[stream]
            self.to_downstream.append(frames.rst_stream(stream, frames.REFUSED_STREAM))
        if told == last:
            return None
        return frames.build(frames.GOAWAY, 0, 0, told.to_bytes(4, "big") + payload[4:])

    # The interposer's frames

    def _begin_interposer(self) -> None:
        self._interposer_frames = frames.Reader()
        self._interposer_terms = Terms()
        self._interposer_sender = headers.Sender()
        self._interposer_receiver = headers.Receiver()
        self._interposer_block: headers.Block | None = None
        self._lending.begin()

    def _of_interposer(self, data: bytes) -> None:
        buffer, found = self._interposer_frames.feed(data)
        for start, stop, kind, flags, stream in found:
            self._interposer_frame(buffer[start:stop], kind, flags, stream)
        if self._interposer_frames.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")
        credit = self._delivery.interposer_grant()
        if credit:
            self.to_interposer.append(frames.window_update(0, credit))

    def _interposer_frame(self, raw: bytes, kind: int, flags: int, stream: int) -> None:
        payload = raw[frames.HEADER_BYTES :]
        loan = self._lending.loans.get(stream) if stream else None
        if self._interposer_block is not None:
            self._interposer_continued(raw, kind, flags, stream)
            return
        _check_stream(kind, stream)
        if kind <= frames.HEADERS:
            self._is_interposer_heard = True
        match kind:
            case frames.DATA if loan:
                self._delivery.receive(len(payload))
                loan.is_answer_over |= bool(flags & frames.END_STREAM)
                self._answered(loan, raw, len(payload))
            case frames.DATA:
                self._delivery.receive(len(payload))
                self._delivery.drop(len(payload))
            case frames.HEADERS:
                if flags & frames.END_HEADERS:
                    priority, fragment = headers.fragment_of(flags, payload)
                    self._interposer_answer(stream, flags, priority, fragment, raw)
                else:
                    self._interposer_block = headers.Block(flags, stream, raw)
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise Violation(frames.PROTOCOL_ERROR, f"a frame of kind {kind} has no place here")
            case frames.SETTINGS if flags & frames.ACK:
                self._interposer_sender.is_bound = True
            case frames.SETTINGS:
                terms = self._interposer_terms
                terms.announce(payload)
                self.to_interposer.append(frames.build(frames.SETTINGS, frames.ACK, 0))
                self._lending.resize(terms.window_bytes)
                for each in tuple(self._lending.loans.values()):
                    self._tell_surplus(each)
                    self._end_if_over(each)
            case frames.PING if not flags & frames.ACK:
                self.to_interposer.append(frames.build(frames.PING, frames.ACK, 0, payload))
            case frames.GOAWAY:
                self._interposer_goaway(payload)
            case frames.WINDOW_UPDATE if not stream:
                for each in self._lending.grant(frames.number(payload) & frames.LARGEST_WINDOW):
                    self._end_if_over(each)
            case frames.WINDOW_UPDATE if loan:
                self._lending.grant_stream(loan, frames.number(payload) & frames.LARGEST_WINDOW)
                self._tell_surplus(loan)
                self._end_if_over(loan)
            case frames.RST_STREAM if loan:
                self._lending.stop(loan)
                loan.is_request_over = loan.is_answer_over = True
                self._answered(loan, raw, 0)
            case _ if loan and kind > frames.CONTINUATION:
                self._answered(loan, raw, 0)

    def _interposer_continued(self, raw: bytes, kind: int, flags: int, stream: int) -> None:
        block = self._interposer_block
        assert block is not None
        if kind != frames.CONTINUATION or stream != block.stream:
            raise Violation(frames.PROTOCOL_ERROR, "a header block was interrupted")
        block.extend(raw)
        if flags & frames.END_HEADERS:
            self._interposer_block = None
            self._interposer_answer(stream, block.flags, block.priority, block.fragment, block.raw)

    def _interposer_answer(
        self, stream: int, flags: int, priority: bytes, fragment: bytes, raw: bytes
    ) -> None:
        block = fragment
        if _is_to_be_read(self._interposer_sender, fragment):
            block, _ = self._interposer_sender.read(fragment)
        loan = self._lending.loans.get(stream)
        if loan is None:
            return
        if block is not fragment:
            raw = frames.headers(stream, block, flags=flags, priority=priority)
        loan.is_answered = True
        loan.is_answer_over |= bool(flags & frames.END_STREAM)
        self._answered(loan, raw, 0)

    def _interposer_goaway(self, payload: bytes) -> None:
        last = frames.number(payload) & frames.LARGEST_STREAM
        self._become(_Interposer.LEAVING)
        for loan in [each for each in self._lending.loans.values() if each.stream > last]:
            self._answer_unavailable(loan, "the interposer is stopping")

    def _answer_unavailable(self, loan: Loan, reason: str) -> None:
        """End a lent stream as gRPC would: a status downstream can act upon, no repetition."""
        fields = [
            (b"grpc-status", _UNAVAILABLE),
            (b"grpc-message", f"cri-proxy: {reason}".encode()),
        ]
        if not loan.is_answered:
            fields[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        answer = frames.headers(
            loan.stream,
            headers.encoded(fields),
            flags=frames.END_STREAM,
        )
        put = self._delivery.put
        self._drop_answers(loan)
        if not loan.is_answer_over or loan.answers.waiting:
            put(loan.stream, answer, 0, is_interposers=True)
        if not loan.is_request_over:
            put(loan.stream, frames.rst_stream(loan.stream, 0), 0, is_interposers=True)
        self._end_loan(loan)
        if Side.DOWNSTREAM in self._paused:
            self._has_answered_unread = True
            self.needs_attention = True

    # What several sides need

    def _become(self, state: _Interposer) -> None:
        self._interposer = state
        self.needs_attention = True

    def _finish(self) -> None:
        self.is_over = True
        self.needs_attention = True

    def _deliver(self, loan: Loan) -> None:
        """Pass on what downstream takes of a lent stream now, and grant the interposer as much."""
        for raw, size in loan.answers.ready():
            self._delivery.put(loan.stream, raw, size, is_interposers=True)
        surplus = 0 if loan.is_answer_over else loan.answers.surplus()
        if surplus:
            self.to_interposer.append(frames.window_update(loan.stream, surplus))
        self._end_if_over(loan)

    def _answered(self, loan: Loan, raw: bytes, size: int) -> None:
        """Take a frame of the interposer's on its way downstream."""
        padding = loan.answers.put(raw, size)
        if padding:
            self._delivery.drop(padding)
        self._deliver(loan)

    def _drop_answers(self, loan: Loan) -> None:
        self._delivery.drop(loan.answers.waiting_bytes)

    def _half_over(self, stream: int, half: int) -> None:
        """Take note that a stream of upstream's is over in one direction."""
        state = self._streams.get(stream)
        if state is None:
            return
        state |= half
        if state & (_REQUEST_OVER | _ANSWER_OVER) == _REQUEST_OVER | _ANSWER_OVER:
            del self._streams[stream]
        else:
            self._streams[stream] = state

    def _end_if_over(self, loan: Loan) -> None:
        if loan.is_over:
            self._end_loan(loan)

    def _end_loan(self, loan: Loan) -> None:
        self._lending.end(loan)
        self._remember(loan.stream)

    def _remember(self, stream: int) -> None:
        self._past_loans[stream] = None
        self._past_order.append(stream)
        if len(self._past_order) > REMEMBERED_LOANS:
            del self._past_loans[self._past_order.popleft()]

    def _tell_surplus(self, loan: Loan) -> None:
        surplus = self._lending.surplus(loan)
        if surplus:
            self.to_downstream.append(frames.window_update(loan.stream, surplus))

    def _pay(self) -> None:
        if self._lending.owed and Side.DOWNSTREAM not in self._paused:
            owed = self._lending.pay()
            if owed:
                self._downstream_room += owed
                self.to_downstream.append(frames.window_update(0, owed))

    def _after(self) -> None:
        """Do what is due after any event."""
        if self._lending.owed:
            self._pay()
        if self._is_last_told and self._is_idle:
            self._finish()

    @property
    def _is_idle(self) -> bool:
        return not (
            self._lending.loans
            or self._delivery.held
            or any(not state & _ENDLESS for state in self._streams.values())
        )

    def _drain_further(self) -> bytes:
        if self._is_draining:
            self._is_last_told = True
            self._last = self._highest if self._last is None else min(self._last, self._highest)
            self.to_downstream.append(frames.goaway(self._last, frames.NO_ERROR))
        return b""

    def _refuse(self, violation: Violation) -> None:
        self.reason = violation.reason
        self.to_downstream.append(frames.goaway(self._highest, violation.code, violation.reason))
        self._finish()


def needles_of(interposed: frozenset[str], endless: frozenset[str]) -> headers.Needles:
    """Return the needles for the paths of methods, `/package.Service/Method`."""
    meanings: Mapping[str, int] = {
        **dict.fromkeys(endless, Method.ENDLESS),
        **dict.fromkeys(interposed, Method.INTERPOSED),
    }
    return headers.Needles(meanings)


def _is_to_be_read(sender: headers.Sender, fragment: bytes) -> bool:
    return not sender.is_stateless or (
        bool(fragment) and fragment[0] & headers.SIZE_UPDATE_MASK == headers.SIZE_UPDATE
    )


def _check_stream(kind: int, stream: int) -> None:
    """Raise Violation if a frame belongs to a stream and has none, or the other way round."""
    match kind:
        case frames.DATA | frames.HEADERS | frames.PRIORITY | frames.RST_STREAM:
            is_right = stream % 2 == 1
        case frames.SETTINGS | frames.PING | frames.GOAWAY:
            is_right = stream == 0
        case _:
            is_right = True
    if not is_right:
        raise Violation(frames.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream}")
