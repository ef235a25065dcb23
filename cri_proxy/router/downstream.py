"""Downstream, which is kubelet: its frames go to upstream unchanged, or to the interposer.

A stream that downstream opens is forwarded to upstream unless its method is interposed; later
frames follow it. A run of frames that may pass is forwarded as one slice of what was received.

- SETTINGS are forwarded with small changes (see `http2settings`), and so are grants of the
  connection window, less what the interposer has used of it (see `responseflow`).
- The first call is answered with SETTINGS of our own that empty downstream's header table; their
  acknowledgement is not forwarded.
- PINGs are forwarded, but those that the interposer's DATA provoked are answered here.
- When a connection drains, a PING of our own shows how far downstream has read.

What upstream should reject is left to upstream. Rejected here is only what cannot be forwarded
correctly, and what exceeds our limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.frames import Violation
from cri_proxy.router.http2settings import STATELESS, Http2Settings
from cri_proxy.router.interposition import Interposition
from cri_proxy.router.streams import ENDLESS, LARGEST_STREAMS, REQUEST_ENDED, Streams
from cri_proxy.router.upstream import Upstream

DRAIN_PING: Final = b"cripxdrn"
"""The payload of our own PING, which marks how far downstream has read."""

_header: Final = frames.HEADER.unpack_from


@dataclass(slots=True, eq=False)
class Downstream:
    """Downstream's side of one connection."""

    _matcher: headers.MethodMatcher
    _out: list[bytes]
    _streams: Streams
    _upstream: Upstream
    _interposition: Interposition
    has_begun: bool = False
    """Its preface and its SETTINGS have arrived."""
    _preface: bytes = frames.PREFACE
    _settings: Http2Settings = field(default_factory=Http2Settings)
    _sender: headers.HeaderSender = field(default_factory=headers.HeaderSender)
    _block: headers.HeaderBlock | None = None

    def drain(self) -> None:
        """Ask downstream to open no more streams here.

        1. A GOAWAY that excludes no stream asks; streams already sent are still accepted.
        2. A PING follows it; its acknowledgement arrives after all streams opened before.
        3. Then the final GOAWAY names the last accepted stream, and the connection ends when only
           endless streams are left, which end with it.
        """
        self._streams.is_draining = True
        self._interposition.to_downstream.append(
            frames.goaway(frames.LARGEST_STREAM, frames.NO_ERROR)
        )
        self._interposition.to_downstream.append(frames.build(frames.PING, 0, 0, DRAIN_PING))

    def receive(self, data: bytes) -> None:
        """Process bytes of downstream; raises Violation if it broke the protocol or a limit."""
        if self._preface:
            data = self._begin(data)
        reader, out = self._upstream.downstream_reader, self._out
        if reader.pieces and not (data := reader.joined(data)):
            return
        # The hot loop. `Upstream.receive` is a deliberate copy of its outline: a function call per
        # frame would cost more than the tests themselves. A change to one loop probably applies to
        # the other, too. Local variables and literals are faster than attributes and constants.
        #
        # Frames from `passed` to `start` pass unchanged and are not forwarded yet. A test below
        # that succeeds adds its frame to them (`continue`); any other frame goes to `_frame`.
        streams, interposition = self._streams, self._interposition
        request_flow, response_flow = interposition.request_flow, interposition.response_flow
        opened, interposed = streams.open, request_flow.calls
        matcher, table, largest, end = self._matcher, streams.table, reader.largest, len(data)
        is_plain, is_open = self._is_plain, self._is_open
        start = passed = 0
        while end - start >= 9:  # a frame header
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            stop = start + 9 + length
            if stop > end or length > largest:
                break  # incomplete, or too long: `keep` distinguishes them
            if is_plain:
                if kind == 0:  # DATA
                    # `stream` still has the reserved bit; with that set it is not in the table.
                    if stream in opened:
                        request_flow.downstream_room -= length
                        if flags & 1:  # END_STREAM
                            streams.half_close(stream, REQUEST_ENDED)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    # A request that upstream gets as it is:
                    # - END_HEADERS is set, PADDED and PRIORITY are not (0x2C = 0x20 | 8 | 4), so
                    #   the payload is one whole header block;
                    # - it opens the next stream: higher than all before, odd, and without the
                    #   reserved bit (0x80000001 = reserved bit | lowest bit);
                    # - the block does not begin with a change of the table size (001xxxxx, see
                    #   headers.SIZE_UPDATE), so it is self-contained;
                    # - its method is neither interposed nor endless.
                    if (
                        is_open
                        and flags & 0x2C == 4
                        and stream > streams.highest
                        and stream & 0x80000001 == 1
                        and len(opened) + len(interposed) < LARGEST_STREAMS
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and matcher.rules_out(block := data[start + 9 : stop])
                    ):
                        streams.highest = streams.highest_upstream = stream
                        opened[stream] = flags & 1  # END_STREAM, which is REQUEST_ENDED
                        if table is not None:
                            streams.methods[stream] = table.method_of(block)
                        start = stop
                        continue
                elif stream:
                    if kind == 8 and stream in opened:  # WINDOW_UPDATE of a stream
                        start = stop
                        continue
                elif kind == 6:  # PING
                    if flags & 1:  # ACK; DRAIN_PING is only sent once is_plain is false
                        start = stop
                        continue
                    # Upstream answers it, unless the interposer's DATA may have provoked it.
                    if length == 8 and not interposition.has_sent:
                        self._upstream.has_sent = False
                        start = stop
                        continue
                elif kind == 8 and length == 4:  # WINDOW_UPDATE of the connection
                    # With the reserved bit set the sum is too large, and the frame does not pass.
                    room = response_flow.room + int.from_bytes(data[start + 9 : stop], "big")
                    if (
                        not response_flow.debt
                        and not response_flow.held
                        and room < frames.LARGEST_WINDOW
                    ):
                        response_flow.room = room
                        start = stop
                        continue
            stream &= frames.LARGEST_STREAM  # without the reserved bit
            instead = self._frame(data[start:stop], kind, flags, stream)
            if instead is not None:
                if passed < start:
                    out.append(data[passed:start])
                if instead:
                    out.append(instead)
                passed = stop
            start = stop
            # The frame may have changed what the tests rely on.
            is_plain, is_open, largest = self._is_plain, self._is_open, reader.largest
        if passed < start:  # the object that was received itself, if all of it passes
            out.append(data if start - passed == end else data[passed:start])
        if request_flow.downstream_room < 0:
            raise Violation(
                frames.FLOW_CONTROL_ERROR, "connection flow-control window was exceeded"
            )
        if start < end:
            reader.keep(data[start:])

    def _begin(self, data: bytes) -> bytes:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise Violation(frames.PROTOCOL_ERROR, "invalid HTTP/2 connection preface")
        self._preface = self._preface[size:]
        if not self._preface:
            self._out.append(frames.PREFACE)
        return data[size:]

    @property
    def _is_plain(self) -> bool:
        """The tests of the hot loop apply: no handshake, drain or unfinished header block."""
        return self.has_begun and not self._streams.is_draining and self._block is None

    @property
    def _is_open(self) -> bool:
        """Downstream may open streams, and its header blocks are self-contained."""
        return (
            self._sender.is_stateless
            and self._upstream.receiver.is_stateless
            and self._streams.last is None
        )

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes | None:
        """Return what to forward instead of the frame, None to forward it unchanged."""
        streams, interposition = self._streams, self._interposition
        if self._block is not None:
            if not self._block.extend(raw, kind, flags, stream):
                return b""
            block, self._block = self._block, None
            instead = self._request(block)
            return block.raw if instead is None else instead
        payload = raw[frames.HEADER_BYTES :]
        if not self.has_begun and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(frames.PROTOCOL_ERROR, "first frame is not SETTINGS")
        frames.check_stream(kind, stream)
        match kind:
            case frames.HEADERS:
                block = headers.HeaderBlock(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._request(block)
                self._block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.unexpected(kind)
            case frames.SETTINGS:
                return self._receive_settings(flags, payload)
            case frames.PING if flags & frames.ACK and payload == DRAIN_PING:
                if streams.is_draining:
                    streams.is_last_announced = True
                    last = streams.limit(streams.highest)
                    interposition.to_downstream.append(frames.goaway(last, frames.NO_ERROR))
                return b""
            case frames.PING if not flags & frames.ACK:
                return self._ping(payload)
            case frames.WINDOW_UPDATE if not stream:
                return self._grant(frames.number(payload))
            case frames.DATA:
                interposition.request_flow.downstream_room -= len(payload)
            case frames.RST_STREAM:
                streams.cancel(stream)
        if stream and (call := interposition.calls.get(stream)):
            interposition.take(call, raw, kind, flags)
            return b""
        if not interposition.is_closed(stream):
            return None
        if kind == frames.DATA:
            interposition.request_flow.owed += len(payload)
        return b""

    def _request(self, request: headers.HeaderBlock) -> bytes | None:
        """Route a header block; return what to forward instead, None to forward it unchanged."""
        streams, interposed = self._streams, self._interposition.calls
        stream, fragment, decoded = request.stream, request.fragment, None
        if self._sender.must_decode(fragment):
            request.block, decoded = self._sender.normalized(fragment)
        if self._upstream.has_settings and not self._upstream.table_limit.is_announced:
            self._interposition.to_downstream.append(self._upstream.table_limit.announce())
        end = request.flags & frames.END_STREAM
        if stream in streams.open:
            if end:
                streams.half_close(stream, REQUEST_ENDED)
        elif call := interposed.get(stream):
            self._interposition.trailers(call, request)
            return b""
        elif self._interposition.is_closed(stream):
            return b""
        elif stream <= streams.highest:
            if stream > streams.highest_upstream:
                raise Violation(frames.PROTOCOL_ERROR, "stream ids do not increase")
        elif streams.last is not None and stream > streams.last:
            streams.highest = stream
            self._interposition.mark_closed(stream)
            return b""
        else:
            streams.highest = stream
            kind = (
                self._matcher.kind(fragment) if decoded is None else self._matcher.kind_of(decoded)
            )
            if len(streams.open) + len(interposed) >= LARGEST_STREAMS:
                raise Violation(
                    frames.ENHANCE_YOUR_CALM, f"more than {LARGEST_STREAMS} open streams"
                )
            if kind == headers.MethodKind.INTERPOSED:
                self._interposition.connect(self._settings)
                self._interposition.begin(
                    request,
                    granted=self._upstream.settings.window_bytes,
                    response_room=self._upstream.effective_window.window_bytes,
                )
                return b""
            endless = ENDLESS if kind == headers.MethodKind.ENDLESS else 0
            streams.begin(stream, endless | end, request.block)
        if not self._upstream.receiver.is_stateless:
            request.block = self._upstream.receiver.made_stateless(request.block)
        return request.reframed() if request.is_changed else None

    def _receive_settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            if payload:
                raise Violation(frames.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            is_ours = self._upstream.table_limit.acknowledge()
            self._sender.is_limited = self._upstream.table_limit.is_acknowledged
            return b"" if is_ours else None
        self.has_begun = True
        forwarded, _ = self._settings.update(payload)
        largest = max(self._upstream.reader.largest, self._settings.frame_bytes)
        self._upstream.reader.largest = largest
        self._interposition.resize(
            self._upstream.effective_window.announce(self._settings.window_bytes)
        )
        return frames.build(frames.SETTINGS, 0, 0, STATELESS + forwarded)

    def _ping(self, payload: bytes) -> bytes | None:
        """Answer a PING that the interposer has provoked; forward others.

        gRPC clients measure the bandwidth with a PING when DATA arrives, and a server in Go closes
        a connection ("too_many_pings") on which PINGs arrive although it has sent nothing itself.
        """
        is_provoked = self._interposition.has_sent and not self._upstream.has_sent
        self._interposition.has_sent = self._upstream.has_sent = False
        if not is_provoked or len(payload) != 8:
            return None
        self._interposition.to_downstream.append(frames.build(frames.PING, frames.ACK, 0, payload))
        return b""

    def _grant(self, increment: int) -> bytes | None:
        increment &= frames.LARGEST_WINDOW
        flow, interposition = self._interposition.response_flow, self._interposition
        left = flow.grant(increment)
        for refund in flow.release():
            grant = frames.window_update(refund.stream, refund.size)
            if refund.is_interposed:
                interposition.to_interposer.append(grant)
            else:
                left += flow.repay(refund.size)
                self._out.append(grant)
        if left == increment:
            return None
        return frames.window_update(0, left) if left else b""
