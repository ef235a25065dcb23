"""What downstream sends, kubelet: frames that go upstream as they are, or to the interposer.

A stream that downstream opens is upstream's, unless its method is interposed: then it is lent (see
`interposition`). Frames of a stream follow it. A run of frames that may pass upstream becomes one
slice of what was received; what is looked at twice is the rest, and the beginning of a connection.

- SETTINGS pass with small changes (see `terms`), and so do grants of the connection window, less
  what the interposer has used of it (see `delivery`).
- The first call is the sign to tell downstream that it is to keep no header table; what
  acknowledges that goes no further.
- PINGs pass, but those that the interposer provokes are answered here.
- How far downstream has read is found out by a PING of our own, when a connection is drained.

What upstream should object to, upstream is left to object to. What we object to ourselves is what
we could not forward correctly, and what goes beyond our bounds.
"""

from __future__ import annotations

from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.frames import Violation
from cri_proxy.router.interposition import Interposition
from cri_proxy.router.streams import (
    ENDLESS,
    LARGEST_STREAMS,
    REQUEST_OVER,
    MethodKind,
    Streams,
)
from cri_proxy.router.terms import STATELESS, Terms
from cri_proxy.router.upstream import Upstream

DRAIN_PING: Final = b"cripxdrn"
"""The payload of our own PING, which marks how far downstream has read."""

_header: Final = frames.HEADER.unpack_from


class Downstream:
    """Downstream's side of one connection."""

    __slots__ = (
        "_block",
        "_delivery",
        "_interposition",
        "_lending",
        "_needles",
        "_out",
        "_preface",
        "_reader",
        "_sender",
        "_streams",
        "_terms",
        "_to_downstream",
        "_to_interposer",
        "_upstream",
        "has_begun",
    )

    def __init__(
        self,
        needles: headers.Needles,
        to_upstream: list[bytes],
        *,
        streams: Streams,
        upstream: Upstream,
        interposition: Interposition,
    ) -> None:
        self.has_begun = False
        """Its preface and its SETTINGS have come."""
        self._needles = needles
        self._streams = streams
        self._upstream = upstream
        self._interposition = interposition
        self._lending = interposition.lending
        self._delivery = interposition.delivery
        self._out = to_upstream
        self._to_downstream = interposition.to_downstream
        self._to_interposer = interposition.to_interposer
        self._reader = upstream.downstream_reader
        self._preface = frames.PREFACE
        self._terms = Terms()
        self._sender = headers.HeaderSender()
        self._block: headers.Block | None = None

    def drain(self) -> None:
        """Ask downstream to open no more streams here.

        1. A GOAWAY that excludes nothing asks; streams on their way are still taken.
        2. A PING follows it, and its answer comes behind every stream that was on its way.
        3. Then the GOAWAY that names the last stream taken, and the end when all are over but
           the endless ones: these end with the connection.
        """
        self._streams.is_draining = True
        self._to_downstream.append(frames.goaway(frames.LARGEST_STREAM, frames.NO_ERROR))
        self._to_downstream.append(frames.build(frames.PING, 0, 0, DRAIN_PING))

    def receive(self, data: bytes) -> None:
        """Take downstream's bytes; raises Violation if it broke the protocol, or our bounds."""
        if self._preface:
            data = self._begin(data)
        reader, out = self._reader, self._out
        if reader.pieces and not (data := reader.joined(data)):
            return
        streams, lending, delivery = self._streams, self._lending, self._delivery
        opened, loans = streams.open, lending.loans
        needles, calls, largest, end = self._needles, streams.calls, reader.largest, len(data)
        is_plain, is_open = self._is_plain, self._is_open
        start = passed = 0
        while end - start >= 9:
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            stop = start + 9 + length
            if stop > end or length > largest:
                break
            # What passes as it is: nearly all there ever is. The rest is looked at frame by frame.
            if is_plain:
                if kind == 0:  # DATA
                    if stream in opened:
                        lending.downstream_room -= length
                        if flags & 1:
                            streams.half_over(stream, REQUEST_OVER)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    if (
                        is_open
                        and flags & 0x2C == 4
                        and stream > streams.highest
                        and stream & 0x80000001 == 1
                        and len(opened) + len(loans) < LARGEST_STREAMS
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and needles.is_absent(block := data[start + 9 : stop])
                    ):
                        streams.highest = streams.highest_upstream = stream
                        opened[stream] = flags & 1
                        if calls is not None:
                            calls.begin(stream, block)
                        start = stop
                        continue
                elif stream:
                    if kind == 8 and stream in opened:  # WINDOW_UPDATE
                        start = stop
                        continue
                elif kind == 6:  # PING
                    if flags & 1:
                        start = stop
                        continue
                    if length == 8 and not self._interposition.is_heard:
                        self._upstream.is_heard = False
                        start = stop
                        continue
                elif kind == 8 and length == 4:  # WINDOW_UPDATE
                    room = delivery.room + int.from_bytes(data[start + 9 : stop], "big")
                    if not delivery.debt and not delivery.held and room < frames.LARGEST_WINDOW:
                        delivery.room = room
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
            is_plain, is_open, largest = self._is_plain, self._is_open, reader.largest
        if passed < start:
            out.append(data if start - passed == end else data[passed:start])
        if lending.downstream_room < 0:
            raise Violation(frames.FLOW_CONTROL_ERROR, "the connection window was exceeded")
        if start < end:
            reader.keep(data[start:])

    def _begin(self, data: bytes) -> bytes:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise Violation(frames.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[size:]
        if not self._preface:
            self._out.append(frames.PREFACE)
        return data[size:]

    @property
    def _is_plain(self) -> bool:
        """Downstream's frames mean what they usually do."""
        return self.has_begun and not self._streams.is_draining and self._block is None

    @property
    def _is_open(self) -> bool:
        """Downstream may open streams, and its header blocks stand alone."""
        return (
            self._sender.is_stateless
            and self._upstream.receiver.is_closed
            and self._streams.last is None
        )

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes | None:
        """Return what goes upstream instead of the frame, None if it passes as it is."""
        if self._block is not None:
            if not self._block.extend(raw, kind, flags, stream):
                return b""
            block, self._block = self._block, None
            whole = block.whole()
            instead = self._request(whole)
            return whole.raw if instead is None else instead
        payload = raw[frames.HEADER_BYTES :]
        if not self.has_begun and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        frames.check_stream(kind, stream)
        match kind:
            case frames.HEADERS:
                block = headers.Block(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._request(block.whole())
                self._block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.misplaced(kind)
            case frames.SETTINGS:
                return self._settings(flags, payload)
            case frames.PING if flags & frames.ACK and payload == DRAIN_PING:
                return self._drain_further()
            case frames.PING if not flags & frames.ACK:
                return self._ping(payload)
            case frames.WINDOW_UPDATE if not stream:
                return self._grant(frames.number(payload))
            case frames.DATA:
                self._lending.downstream_room -= len(payload)
            case frames.RST_STREAM:
                self._streams.cancel(stream)
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
        streams, loans = self._streams, self._interposition.loans
        stream, fragment, read = request.stream, request.fragment, None
        if self._sender.is_to_be_read(fragment):
            request.block, read = self._sender.read(fragment)
        if self._upstream.has_greeted and not self._upstream.limit.is_told:
            self._to_downstream.append(self._upstream.limit.tell())
        end = request.flags & frames.END_STREAM
        if stream in streams.open:
            if end:
                streams.half_over(stream, REQUEST_OVER)
        elif loan := loans.get(stream):
            self._interposition.trailers(loan, request)
            return b""
        elif self._interposition.is_past(stream):
            return b""
        elif stream <= streams.highest:
            if stream > streams.highest_upstream:
                raise Violation(frames.PROTOCOL_ERROR, "a stream was opened out of order")
        elif streams.last is not None and stream > streams.last:
            streams.highest = stream
            self._interposition.remember(stream)
            return b""
        else:
            streams.highest = stream
            meaning = (
                self._needles.meaning(fragment) if read is None else self._needles.meaning_of(read)
            )
            if len(streams.open) + len(loans) >= LARGEST_STREAMS:
                raise Violation(frames.ENHANCE_YOUR_CALM, f"over {LARGEST_STREAMS} open streams")
            if meaning == MethodKind.INTERPOSED:
                self._interposition.connect(self._terms)
                self._interposition.lend(
                    request,
                    belief=self._upstream.terms.window_bytes,
                    answer_room=self._upstream.effect.window_bytes,
                )
                return b""
            endless = ENDLESS if meaning == MethodKind.ENDLESS else 0
            streams.begin(stream, endless | end, request.block)
        if not self._upstream.receiver.is_closed:
            request.block = self._upstream.receiver.close(request.block)
        return request.reframed() if request.is_changed else None

    def _settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            if payload:
                raise Violation(frames.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            is_ours = self._upstream.limit.acknowledge()
            self._sender.is_bound = self._upstream.limit.is_acknowledged
            return b"" if is_ours else None
        self.has_begun = True
        told, _ = self._terms.announce(payload)
        largest = max(self._upstream.reader.largest, self._terms.frame_bytes)
        self._upstream.reader.largest = largest
        self._interposition.resize(self._upstream.effect.announce(self._terms.window_bytes))
        return frames.build(frames.SETTINGS, 0, 0, STATELESS + told)

    def _ping(self, payload: bytes) -> bytes | None:
        """Answer a PING that the interposer has provoked; let others pass.

        A gRPC client measures with one whenever DATA comes, and a runtime in Go ends a connection
        ("too_many_pings") that brings some without its having sent anything itself in between.
        """
        is_provoked = self._interposition.is_heard and not self._upstream.is_heard
        self._interposition.is_heard = self._upstream.is_heard = False
        if not is_provoked or len(payload) != 8:
            return None
        self._to_downstream.append(frames.build(frames.PING, frames.ACK, 0, payload))
        return b""

    def _grant(self, increment: int) -> bytes | None:
        increment &= frames.LARGEST_WINDOW
        left = self._delivery.grant(increment)
        if self._delivery.held:
            for refund in self._delivery.release():
                if refund.is_interposers:
                    self._to_interposer.append(frames.window_update(refund.stream, refund.size))
                else:
                    left += self._delivery.repay(refund.size)
                    self._out.append(frames.window_update(refund.stream, refund.size))
        if left == increment:
            return None
        return frames.window_update(0, left) if left else b""

    def _drain_further(self) -> bytes:
        streams = self._streams
        if streams.is_draining:
            streams.is_last_told = True
            last = streams.bound(streams.highest)
            self._to_downstream.append(frames.goaway(last, frames.NO_ERROR))
        return b""
