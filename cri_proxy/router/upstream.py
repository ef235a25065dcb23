"""Upstream, which is the runtime: its frames go to downstream, nearly all of them unchanged.

A run of frames that may pass is forwarded as one slice of what was received. DATA is held by
`responseflow` if the interposer's DATA has used up downstream's window.

- SETTINGS are forwarded with small changes (see `http2settings`). Acknowledgements are recorded,
  because what downstream has announced takes effect with them.
- PINGs and their acknowledgements are forwarded.
- The last stream in a GOAWAY is raised to that of the last interposed call: downstream must not
  conclude that such a call was never processed, and repeat it, while the interposer works on it.

What downstream should reject is left to downstream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.frames import FrameReader
from cri_proxy.router.http2settings import EffectiveWindow, HeaderTableLimit, Http2Settings
from cri_proxy.router.interposition import Interposition
from cri_proxy.router.streams import RESPONSE_ENDED, Streams

_header: Final = frames.HEADER.unpack_from


@dataclass(slots=True, eq=False)
class Upstream:
    """Upstream's side of one connection."""

    _streams: Streams
    _interposition: Interposition
    reader: FrameReader = field(default_factory=FrameReader)
    downstream_reader: FrameReader = field(default_factory=FrameReader)
    """Splits downstream's bytes into frames, which may be as long as upstream announced."""
    settings: Http2Settings = field(default_factory=Http2Settings)
    effective_window: EffectiveWindow = field(default_factory=EffectiveWindow)
    """Downstream's initial window of streams, as upstream may use it now."""
    table_limit: HeaderTableLimit = field(default_factory=HeaderTableLimit)
    """The size of downstream's header table."""
    receiver: headers.HeaderReceiver = field(default_factory=headers.HeaderReceiver)
    has_settings: bool = False
    """Its SETTINGS have arrived."""
    has_sent: bool = False
    """It has sent HEADERS or DATA since this was last reset."""
    _sender: headers.HeaderSender = field(default_factory=headers.HeaderSender)
    _block: headers.HeaderBlock | None = None
    _change_due: int = 0

    def receive(self, data: bytes) -> None:
        """Process bytes of upstream; raises Violation if it broke the protocol."""
        reader, out = self.reader, self._interposition.to_downstream
        if reader.pieces and not (data := reader.joined(data)):
            return
        # The hot loop: a deliberate copy of the outline of `Downstream.receive`, whose comments
        # explain it and the bits that are tested. A change here probably applies there, too.
        streams, interposition = self._streams, self._interposition
        request_flow, response_flow = interposition.request_flow, interposition.response_flow
        largest, end = reader.largest, len(data)
        sender, held_streams, held = self._sender, response_flow.held_streams, response_flow.held
        is_plain = self._block is None
        start = passed = 0
        while end - start >= 9:  # a frame header
            head, flags, stream = _header(data, start)
            kind, length = head & 0xFF, head >> 8
            stop = start + 9 + length
            if stop > end or length > largest:
                break  # incomplete, or too long: `keep` distinguishes them
            if is_plain:
                if kind == 0:  # DATA
                    self.has_sent = True
                    # Nothing else is held and downstream's window has room for it. The stream is
                    # neither 0 nor does it have the reserved bit.
                    if not held and length <= response_flow.room and 0 < stream < 0x80000000:
                        response_flow.room -= length
                        if flags & 1:  # END_STREAM
                            streams.half_close(stream, RESPONSE_ENDED)
                        start = stop
                        continue
                elif kind == 1:  # HEADERS
                    self.has_sent = True
                    # One whole, self-contained header block (END_HEADERS without PADDED and
                    # PRIORITY, no change of the table size) that need not wait for held DATA.
                    if (
                        flags & 0x2C == 4
                        and sender.is_stateless
                        and length
                        and data[start + 9] & 0xE0 != 0x20
                        and not held_streams
                        and 0 < stream < 0x80000000
                    ):
                        if flags & 1:  # END_STREAM: trailers, or headers and trailers in one
                            streams.half_close(stream, RESPONSE_ENDED)
                            if streams.table is not None:
                                streams.answer(stream, data[start + 9 : stop])
                        start = stop
                        continue
                elif kind == 6:  # PING, or its acknowledgement
                    if not stream:
                        start = stop
                        continue
                elif kind == 8 and length == 4:  # WINDOW_UPDATE, of a stream or the connection
                    if not stream & frames.LARGEST_STREAM:
                        increment = int.from_bytes(data[start + 9 : stop], "big")
                        request_flow.downstream_room += increment & frames.LARGEST_WINDOW
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
            is_plain, largest = self._block is None, reader.largest
        if passed < start:  # the object that was received itself, if all of it passes
            out.append(data if start - passed == end else data[passed:start])
        if self._change_due:  # only now, because the acknowledgement must be sent before
            change, self._change_due = self._change_due, 0
            interposition.resize(change)
        if start < end:
            reader.keep(data[start:])

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> bytes | None:
        """Return what to forward instead of the frame, None to forward it unchanged."""
        if self._block is not None:
            if not self._block.extend(raw, kind, flags, stream):
                return b""
            block, self._block = self._block, None
            instead = self._response(block)
            return block.raw if instead is None else instead
        frames.check_stream(kind, stream)
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                if flags & frames.END_STREAM:
                    self._streams.half_close(stream, RESPONSE_ENDED)
                return self._ordered(stream, raw, len(payload))
            case frames.HEADERS:
                block = headers.HeaderBlock(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    return self._response(block)
                self._block = block
                return b""
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.unexpected(kind)
            case frames.SETTINGS:
                return self._receive_settings(flags, payload)
            case frames.WINDOW_UPDATE if not stream:
                increment = frames.number(payload) & frames.LARGEST_WINDOW
                self._interposition.request_flow.downstream_room += increment
            case frames.GOAWAY:
                return self._goaway(payload)
            case frames.RST_STREAM:
                self._streams.reset(stream, frames.number(payload))
                return self._ordered(stream, raw, 0)
        return None

    def _response(self, response: headers.HeaderBlock) -> bytes | None:
        """Return what to forward instead of a header block, None to forward it unchanged."""
        streams = self._streams
        if response.flags & frames.END_STREAM:
            streams.half_close(response.stream, RESPONSE_ENDED)
        if self._sender.must_decode(response.fragment):
            response.block, _ = self._sender.normalized(response.fragment)
        if response.flags & frames.END_STREAM:
            streams.answer(response.stream, response.block)
        if not response.is_changed:
            return self._ordered(response.stream, response.raw, 0)
        reframed = response.reframed()
        return reframed if self._ordered(response.stream, reframed, 0) is None else b""

    def _ordered(self, stream: int, raw: bytes, size: int) -> bytes | None:
        """Return None if a frame may pass now, else hold it behind what is held already."""
        flow = self._interposition.response_flow
        return b"" if flow.hold(stream, raw, size, is_interposed=False) else None

    def _receive_settings(self, flags: int, payload: bytes) -> bytes | None:
        if flags & frames.ACK:
            self._sender.is_limited = True
            self._change_due += self.effective_window.acknowledge()
            return None
        forwarded, change = self.settings.update(payload)
        self.has_settings = True
        self.table_limit.forwarded()
        largest = max(self.downstream_reader.largest, self.settings.frame_bytes)
        self.downstream_reader.largest = largest
        self._interposition.request_flow.change_granted(change)
        return frames.build(frames.SETTINGS, 0, 0, forwarded)

    def _goaway(self, payload: bytes) -> bytes | None:
        last = frames.number(payload) & frames.LARGEST_STREAM
        limit = self._streams.limit(max(last, max(self._interposition.calls, default=0)))
        for stream in [each for each in self._streams.open if last < each <= limit]:
            self._streams.reset(stream, frames.REFUSED_STREAM)
            self._interposition.to_downstream.append(
                frames.rst_stream(stream, frames.REFUSED_STREAM)
            )
        if limit == last:
            return None
        return frames.build(frames.GOAWAY, 0, 0, limit.to_bytes(4, "big") + payload[4:])
