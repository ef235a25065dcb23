"""One connection of kubelet's, with its two others: bytes in, bytes out, and no socket.

Bytes of a side go into `receive_downstream`, `receive_upstream` or `receive_interposer`; what is to
be written gathers in `to_downstream`, `to_upstream` and `to_interposer`, lists that the caller
empties. A run of frames that may pass as they are becomes one slice of what was received.

- A stream that downstream opens is upstream's, unless its method is interposed: then it is lent
  (see `interposition`). Frames of a stream follow it.
- SETTINGS, PING and GOAWAY pass between downstream and upstream, the first with small changes (see
  `terms`). With the interposer we speak for ourselves, and we answer the PINGs that it provokes.
- A GOAWAY of upstream's names at least the last stream that is lent: downstream must not believe
  that a call was never looked at, and repeat it, when the interposer is at work on it.
- Windows are kept by ledgers: `delivery` and `answers` towards downstream, `lending` from it.

What upstream should object to, upstream is left to object to. What we object to ourselves is what
we could not forward correctly, and what goes beyond our bounds: the connection ends with GOAWAY.
No input raises an exception out of this module. It is long because both directions change the one
table of streams and end in the same few lines; each frame's way through it is short.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from cri_proxy.router import counting, frames, headers
from cri_proxy.router.delivery import Delivery
from cri_proxy.router.frames import Violation
from cri_proxy.router.interposition import Interposition, State
from cri_proxy.router.terms import Effect, Terms

LARGEST_STREAMS: Final = 1 << 16
"""Open streams of one connection."""
DRAIN_PING: Final = b"cripxdrn"
"""The payload of our own PING, which marks how far downstream has read."""

_header: Final = frames.HEADER.unpack_from
_REQUEST_OVER: Final = 1
_ANSWER_OVER: Final = 2
_ENDLESS: Final = 4


class Side(IntEnum):
    """Where bytes come from and go to."""

    DOWNSTREAM = 0
    UPSTREAM = 1
    INTERPOSER = 2


class Method(IntEnum):
    """What the methods that are looked for stand for."""

    INTERPOSED = 1
    ENDLESS = 2


class Connection:
    """The three sides of one connection: what may be read, what is to be written."""

    def __init__(self, needles: headers.Needles, table: counting.Table | None = None) -> None:
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
        self._calls = None if table is None else counting.Calls(table)
        self._preface = frames.PREFACE
        self._paused: set[Side] = set()

        self._streams: dict[int, int] = {}
        self._highest = 0
        self._highest_upstream = 0
        self._last: int | None = None

        self._downstream_room = frames.INITIAL_WINDOW_BYTES
        self._delivery = Delivery(self.to_downstream)
        self._interposition = Interposition(
            self.to_downstream, self.to_interposer, self._delivery, on_change=self._attract
        )
        self._lending = self._interposition.lending

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
        self._change_due = 0

        self._is_draining = False
        self._is_last_told = False

    # What the caller of the core asks and tells

    @property
    def held_bytes(self) -> int:
        """How many bytes of answers wait for downstream to grant room."""
        return sum(len(each.raw) for each in self._delivery.held)

    @property
    def wants_interposer(self) -> bool:
        """A connection to the interposer is to be opened, then `interposer_opened` or `_lost`."""
        return self._interposition.state is State.WANTED

    @property
    def has_interposer(self) -> bool:
        """A connection to the interposer is wanted or stands; if not, what there is can go."""
        return self._interposition.state is not State.ABSENT

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
            or self._interposition.state is State.WANTED
            or (self._interposition.has_refused and Side.DOWNSTREAM in self._paused)
        )

    def pause(self, side: Side) -> None:
        """Take note that a side does not read what is written to it."""
        self._paused.add(side)
        if side is Side.DOWNSTREAM:
            self._interposition.has_refused = False

    def resume(self, side: Side) -> None:
        """Take note that the side reads again."""
        self._paused.discard(side)
        if side is Side.DOWNSTREAM:
            self._pay()

    def receive_downstream(self, data: bytes) -> None:
        """Take bytes from downstream."""
        if self.is_over:
            return
        try:
            if self._preface:
                data = self._begin(data)
            self._of_downstream(data)
            if self._lending.owed or self._is_last_told:
                self._after()
        except Violation as violation:
            self._refuse(violation)

    def receive_upstream(self, data: bytes) -> None:
        """Take bytes from upstream."""
        if self.is_over:
            return
        try:
            self._of_upstream(data)
            if self._lending.owed or self._is_last_told:
                self._after()
        except Violation as violation:
            reason = f"the runtime broke the protocol: {violation.reason}"
            self._refuse(Violation(frames.INTERNAL_ERROR, reason))

    def receive_interposer(self, data: bytes) -> None:
        """Take bytes from the interposer."""
        if self.is_over:
            return
        try:
            self._interposition.receive(data)
        except Violation as violation:
            self.interposer_lost(f"the interposer broke the protocol: {violation.reason}")
        self._after()

    def interposer_opened(self) -> None:
        """Take note that the connection to the interposer stands."""
        self._interposition.opened()

    def interposer_lost(self, reason: str) -> None:
        """Take note that there is no connection to the interposer; its calls get `reason`."""
        if self._interposition.state is State.ABSENT:
            return
        self._paused.discard(Side.INTERPOSER)
        self._interposition.lost(reason)
        self._after()

    def upstream_lost(self) -> None:
        """Take note that upstream is gone, and so is the connection."""
        if self._calls is not None:
            self._calls.end_all(counting.UNAVAILABLE)
        self._finish()

    def downstream_lost(self) -> None:
        """Take note that downstream is gone, and so is the connection."""
        if self._calls is not None:
            self._calls.end_all(counting.CANCELLED)
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
        lent = len(self._interposition.loans)
        return f"<Connection {state}, {len(self._streams)} upstream, {lent} lent>"

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
        reader, out = self._downstream_frames, self.to_upstream
        if reader.pieces and not (data := reader.joined(data)):
            return
        streams, delivery, loans = self._streams, self._delivery, self._interposition.loans
        needles, calls, largest, end = self._needles, self._calls, reader.largest, len(data)
        is_plain, is_open = self._is_plain, self._is_open
        start = passed = 0
        while end - start >= 9:
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            if length > largest:
                reader.excess = True
                break
            stop = start + 9 + length
            if stop > end:
                break
            # What passes as it is: nearly all there ever is. The rest is looked at frame by frame.
            if is_plain:
                if kind == 0:  # DATA
                    if stream in streams:
                        self._downstream_room -= length
                        if flags & 1:
                            self._half_over(stream, _REQUEST_OVER)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    if (
                        is_open
                        and flags & 0x2C == 4
                        and stream > self._highest
                        and stream & 0x80000001 == 1
                        and len(streams) + len(loans) < LARGEST_STREAMS
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and needles.is_absent(block := data[start + 9 : stop])
                    ):
                        self._highest = self._highest_upstream = stream
                        streams[stream] = flags & 1
                        if calls is not None:
                            calls.begin(stream, block)
                        start = stop
                        continue
                elif stream:
                    if kind == 8 and stream in streams:  # WINDOW_UPDATE
                        start = stop
                        continue
                elif kind == 6:  # PING
                    if flags & 1:
                        start = stop
                        continue
                    if length == 8 and not self._interposition.is_heard:
                        self._is_upstream_heard = False
                        start = stop
                        continue
                elif kind == 8 and length == 4:  # WINDOW_UPDATE
                    room = delivery.room + int.from_bytes(data[start + 9 : stop], "big")
                    if not delivery.debt and not delivery.held and room < frames.LARGEST_WINDOW:
                        delivery.room = room
                        start = stop
                        continue
            stream &= frames.LARGEST_STREAM
            instead = self._downstream_frame(data, start, stop, kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(data[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
            start = stop
            is_plain, is_open, largest = self._is_plain, self._is_open, reader.largest
        if passed < start:
            out.append(data if start - passed == end else data[passed:start])
        if self._downstream_room < 0:
            raise Violation(frames.FLOW_CONTROL_ERROR, "the connection window was exceeded")
        if reader.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")
        if start < end:
            reader.keep(data[start:])

    @property
    def _is_plain(self) -> bool:
        """Downstream's frames mean what they usually do."""
        return self._settings > 0 and not self._is_draining and self._request_block is None

    @property
    def _is_open(self) -> bool:
        """Downstream may open streams, and its header blocks stand alone."""
        return (
            self._downstream_sender.is_stateless
            and self._upstream_receiver.is_closed
            and self._last is None
        )

    def _downstream_frame(
        self, buffer: bytes, start: int, stop: int, kind: int, flags: int, stream: int
    ) -> bytes | None:
        """Return what goes upstream instead of the frame, None if it passes as it is."""
        raw = buffer[start:stop]
        if self._request_block is not None:
            if not self._request_block.extend(raw, kind, flags, stream):
                return b""
            block, self._request_block = self._request_block, None
            whole = block.whole()
            instead = self._request(whole)
            return whole.raw if instead is None else instead
        payload = raw[frames.HEADER_BYTES :]
        if not self._settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        frames.check_stream(kind, stream)
        match kind:
            case frames.HEADERS:
                block = headers.Block(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._request(block.whole())
                self._request_block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.misplaced(kind)
            case frames.SETTINGS:
                return self._downstream_settings(flags, payload)
            case frames.PING if flags & frames.ACK and payload == DRAIN_PING:
                return self._drain_further()
            case frames.PING if not flags & frames.ACK:
                return self._ping(payload)
            case frames.WINDOW_UPDATE if not stream:
                return self._downstream_grant(frames.number(payload))
            case frames.DATA:
                self._downstream_room -= len(payload)
            case frames.RST_STREAM:
                self._streams.pop(stream, None)
                if self._calls is not None:
                    self._calls.end(stream, counting.CANCELLED)
        if stream and (loan := self._interposition.loans.get(stream)):
            self._interposition.take(loan, raw, kind, flags)
            return b""
        if not self._interposition.is_past(stream):
            return None
        if kind == frames.DATA:
            self._lending.owed += len(payload)
        return b""

    def _request(self, request: headers.Fields) -> bytes | None:
        """Find out whose a header block is; return what goes upstream, None if it as it came."""
        stream, fragment, read = request.stream, request.fragment, None
        if self._downstream_sender.is_to_be_read(fragment):
            request.block, read = self._downstream_sender.read(fragment)
        end = request.flags & frames.END_STREAM
        if stream in self._streams:
            if end:
                self._half_over(stream, _REQUEST_OVER)
        elif loan := self._interposition.loans.get(stream):
            self._interposition.trailers(loan, request)
            return b""
        elif self._interposition.is_past(stream):
            return b""
        elif stream <= self._highest:
            if stream > self._highest_upstream:
                raise Violation(frames.PROTOCOL_ERROR, "a stream was opened out of order")
        elif self._last is not None and stream > self._last:
            self._highest = stream
            self._interposition.remember(stream)
            return b""
        else:
            self._highest = stream
            meaning = (
                self._needles.meaning(fragment) if read is None else self._needles.meaning_of(read)
            )
            if len(self._streams) + len(self._interposition.loans) >= LARGEST_STREAMS:
                raise Violation(frames.ENHANCE_YOUR_CALM, f"over {LARGEST_STREAMS} open streams")
            if meaning == Method.INTERPOSED:
                self._interposition.connect(self._downstream_terms)
                self._interposition.lend(
                    request,
                    belief=self._upstream_terms.window_bytes,
                    answer_room=self._effect.window_bytes,
                )
                return b""
            self._highest_upstream = stream
            self._streams[stream] = (_ENDLESS if meaning == Method.ENDLESS else 0) | end
            if self._calls is not None:
                self._calls.begin(stream, request.block)
        if not self._upstream_receiver.is_closed:
            request.block = self._upstream_receiver.close(request.block)
        return request.reframed() if request.is_changed else None

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
        self._interposition.resize(self._effect.announce(self._downstream_terms.window_bytes))
        return frames.build(frames.SETTINGS, 0, 0, told)

    def _ping(self, payload: bytes) -> bytes | None:
        """Answer a PING that the interposer has provoked; let others pass.

        A gRPC client measures with one whenever DATA comes, and a runtime in Go ends a connection
        ("too_many_pings") that brings some without its having sent anything itself in between.
        """
        is_provoked = self._interposition.is_heard and not self._is_upstream_heard
        self._interposition.is_heard = self._is_upstream_heard = False
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
        reader, out = self._upstream_frames, self.to_downstream
        if reader.pieces and not (data := reader.joined(data)):
            return
        delivery, calls, largest, end = self._delivery, self._calls, reader.largest, len(data)
        sender, waiting, held = self._upstream_sender, delivery.waiting, delivery.held
        is_plain = self._answer_block is None
        start = passed = 0
        while end - start >= 9:
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            if length > largest:
                reader.excess = True
                break
            stop = start + 9 + length
            if stop > end:
                break
            if is_plain:
                if kind == 0:  # DATA
                    self._is_upstream_heard = True
                    if not held and length <= delivery.room and 0 < stream < 0x80000000:
                        delivery.room -= length
                        if flags & 1:
                            self._half_over(stream, _ANSWER_OVER)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    self._is_upstream_heard = True
                    if (
                        flags & 0x2C == 4
                        and sender.is_stateless
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and not waiting
                        and 0 < stream < 0x80000000
                    ):
                        if flags & 1:
                            self._half_over(stream, _ANSWER_OVER)
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
                        self._downstream_room += increment & frames.LARGEST_WINDOW
                    start = stop
                    continue
            stream &= frames.LARGEST_STREAM
            instead = self._upstream_frame(data, start, stop, kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(data[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
            start = stop
            is_plain, largest = self._answer_block is None, reader.largest
        if passed < start:
            out.append(data if start - passed == end else data[passed:start])
        if self._change_due:  # the acknowledgement itself goes first
            change, self._change_due = self._change_due, 0
            self._interposition.resize(change)
        if reader.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")
        if start < end:
            reader.keep(data[start:])

    def _upstream_frame(
        self, buffer: bytes, start: int, stop: int, kind: int, flags: int, stream: int
    ) -> bytes | None:
        """Return what goes downstream instead of the frame, None if it passes as it is."""
        raw = buffer[start:stop]
        if self._answer_block is not None:
            if not self._answer_block.extend(raw, kind, flags, stream):
                return b""
            block, self._answer_block = self._answer_block, None
            whole = block.whole()
            instead = self._answer(whole)
            return whole.raw if instead is None else instead
        frames.check_stream(kind, stream)
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                if flags & frames.END_STREAM:
                    self._half_over(stream, _ANSWER_OVER)
                return self._behind(stream, raw, len(payload))
            case frames.HEADERS:
                block = headers.Block(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._answer(block.whole())
                self._answer_block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.misplaced(kind)
            case frames.SETTINGS:
                return self._upstream_settings(flags, payload)
            case frames.WINDOW_UPDATE if not stream:
                self._downstream_room += frames.number(payload) & frames.LARGEST_WINDOW
            case frames.GOAWAY:
                return self._upstream_goaway(payload)
            case frames.RST_STREAM:
                self._streams.pop(stream, None)
                if self._calls is not None:
                    self._calls.reset(stream, frames.number(payload))
                return self._behind(stream, raw, 0)
        return None

    def _answer(self, answer: headers.Fields) -> bytes | None:
        """Return what goes downstream of upstream's header block, None if it as it came."""
        if answer.flags & frames.END_STREAM:
            self._half_over(answer.stream, _ANSWER_OVER)
        if self._upstream_sender.is_to_be_read(answer.fragment):
            answer.block, _ = self._upstream_sender.read(answer.fragment)
        if self._calls is not None and answer.flags & frames.END_STREAM:
            self._calls.answer(answer.stream, answer.block)
        if not answer.is_changed:
            return self._behind(answer.stream, answer.raw, 0)
        again = answer.reframed()
        return again if self._behind(answer.stream, again, 0) is None else b""

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
        told = max(last, max(self._interposition.loans, default=0))
        if self._last is not None:
            told = min(told, self._last)
        self._last = told
        for stream in [each for each in self._streams if last < each <= told]:
            del self._streams[stream]
            if self._calls is not None:
                self._calls.reset(stream, frames.REFUSED_STREAM)
            self.to_downstream.append(frames.rst_stream(stream, frames.REFUSED_STREAM))
        if told == last:
            return None
        return frames.build(frames.GOAWAY, 0, 0, told.to_bytes(4, "big") + payload[4:])

    # What several sides need

    def _attract(self) -> None:
        self.needs_attention = True

    def _finish(self) -> None:
        self.is_over = True
        self.needs_attention = True

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
            self._interposition.loans
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
