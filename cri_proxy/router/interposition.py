"""The interposer's side of a connection: interposed calls, and our HTTP/2 connection to it.

Downstream's windows and the interposer's meet in `requestflow` and `responseflow`. The interposer's
HTTP/2 connection is ours: we send our own SETTINGS, answer PINGs and grant a connection window. It
is opened when the first call is interposed, stays open as long as downstream's, and is opened again
for the next call if it was lost.

Without the interposer, interposed calls fail with UNAVAILABLE, as a gRPC peer fails them that
cannot work now, and all other calls are unaffected. The streams of recent interposed calls are
remembered, so that late frames of downstream on them are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.http2settings import Http2Settings
from cri_proxy.router.requestflow import InterposedCall, RequestFlow
from cri_proxy.router.responseflow import INTERPOSER_WINDOW_BYTES, ResponseFlow

REMEMBERED: Final = 4096
"""Closed streams on which late frames of downstream are still recognized."""

_UNAVAILABLE: Final = b"14"
_STOPPING: Final = "the interposer is stopping"


class State(Enum):
    """Our connection to the interposer."""

    ABSENT = 0
    WANTED = 1
    OPEN = 2
    LEAVING = 3


class Interposition:
    """The interposer's side of one connection."""

    def __init__(
        self,
        to_downstream: list[bytes],
        to_interposer: list[bytes],
        response_flow: ResponseFlow,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self.state = State.ABSENT
        self.to_downstream = to_downstream
        self.to_interposer = to_interposer
        self.response_flow = response_flow
        self.request_flow = RequestFlow(to_interposer)
        self.has_sent = False
        """The interposer has sent HEADERS or DATA since this was last reset."""
        self.has_refused = False
        """Calls have been failed without the interposer since this was last reset."""
        self._on_change = on_change
        self._closed: OrderedDict[int, None] = OrderedDict()
        self._begin()

    # Events from downstream

    @property
    def calls(self) -> Mapping[int, InterposedCall]:
        """The interposed calls in flight, by stream."""
        return self.request_flow.calls

    def is_closed(self, stream: int) -> bool:
        """Return whether frames on the stream are dropped."""
        return stream in self._closed

    def mark_closed(self, stream: int) -> None:
        """Mark the stream as closed; later frames on it are dropped."""
        self._closed[stream] = None
        if len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)

    def connect(self, settings: Http2Settings) -> None:
        """Request a connection to the interposer, which gets downstream's settings."""
        if self.state is State.ABSENT:
            self._become(State.WANTED)
            more = INTERPOSER_WINDOW_BYTES - frames.INITIAL_WINDOW_BYTES
            self.to_interposer.append(frames.PREFACE)
            self.to_interposer.append(frames.build(frames.SETTINGS, 0, 0, settings.summary()))
            self.to_interposer.append(frames.window_update(0, more))

    def begin(self, request: headers.HeaderBlock, *, granted: int, response_room: int) -> None:
        """Send the interposer a request, whose stream has these windows towards either end."""
        call = self.request_flow.open(request.stream, granted=granted, response_room=response_room)
        call.is_request_ended = bool(request.flags & frames.END_STREAM)
        if self.state is State.LEAVING:
            self._refuse(call, _STOPPING)
            return
        self.to_interposer.append(self._framed(request))
        self._grant_surplus(call)
        self._deliver(call)

    def trailers(self, call: InterposedCall, request: headers.HeaderBlock) -> None:
        """Forward downstream's trailers."""
        self.request_flow.trailers(call, self._framed(request))
        call.is_request_ended |= bool(request.flags & frames.END_STREAM)
        self._end_if_over(call)

    def take(self, call: InterposedCall, raw: bytes, kind: int, flags: int) -> None:
        """Process any other frame of downstream on the stream of an interposed call."""
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                call.is_request_ended |= bool(flags & frames.END_STREAM)
                self.request_flow.data(call, flags, payload)
                self._end_if_over(call)
            case frames.RST_STREAM:
                self.response_flow.drop(call.response.queued_bytes)
                self._end(call)
                self.to_interposer.append(raw)
            case frames.WINDOW_UPDATE:
                call.response.room += frames.number(payload) & frames.LARGEST_WINDOW
                self._deliver(call)
            case frames.PRIORITY:
                pass
            case _:
                self.to_interposer.append(raw)

    def resize(self, change: int) -> None:
        """Change downstream's windows of all interposed streams."""
        for call in tuple(self.calls.values()):
            call.response.room += change
            self._deliver(call)

    # Events from the interposer

    def opened(self) -> None:
        """Record that the connection is established."""
        self._become(State.OPEN)

    def lost(self, reason: str) -> None:
        """Record that there is no connection; the calls that were on it fail with `reason`."""
        self._become(State.ABSENT)
        self.to_interposer.clear()
        for call in tuple(self.calls.values()):
            self._refuse(call, reason)
        self.response_flow.reset_interposer()
        self._begin()

    def receive(self, data: bytes) -> None:
        """Process bytes from the interposer; raises Violation if it broke the protocol."""
        for frame in self._frames.feed(data):
            self._frame(*frame)
        if credit := self.response_flow.interposer_grant():
            self.to_interposer.append(frames.window_update(0, credit))

    def _begin(self) -> None:
        self._frames = frames.FrameReader()
        self._settings = Http2Settings()
        self._sender = headers.HeaderSender()
        self._receiver = headers.HeaderReceiver()
        self._block: headers.HeaderBlock | None = None
        self.request_flow.begin()

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> None:
        if self._block is not None:
            if self._block.extend(raw, kind, flags, stream):
                block, self._block = self._block, None
                self._response(block)
            return
        frames.check_stream(kind, stream)
        self.has_sent |= kind <= frames.HEADERS  # DATA or HEADERS
        payload = raw[frames.HEADER_BYTES :]
        call = self.calls.get(stream) if stream else None
        match kind:
            case frames.DATA:
                self.response_flow.receive(len(payload))
                if call:
                    call.is_response_ended |= bool(flags & frames.END_STREAM)
                    self._forward(call, raw, len(payload))
                else:
                    self.response_flow.drop(len(payload))
            case frames.HEADERS:
                block = headers.HeaderBlock(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    self._response(block)
                else:
                    self._block = block
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.unexpected(kind)
            case frames.SETTINGS:
                self._receive_settings(flags, payload)
            case frames.PING if not flags & frames.ACK:
                self.to_interposer.append(frames.build(frames.PING, frames.ACK, 0, payload))
            case frames.GOAWAY:
                self._become(State.LEAVING)
                last = frames.number(payload) & frames.LARGEST_STREAM
                for each in [each for each in self.calls.values() if each.stream > last]:
                    self._refuse(each, _STOPPING)
            case frames.WINDOW_UPDATE if not stream:
                increment = frames.number(payload) & frames.LARGEST_WINDOW
                for each in self.request_flow.grant(increment):
                    self._end_if_over(each)
            case frames.WINDOW_UPDATE if call:
                increment = frames.number(payload) & frames.LARGEST_WINDOW
                self.request_flow.grant_stream(call, increment)
                self._grant_surplus(call)
                self._end_if_over(call)
            case frames.RST_STREAM if call:
                self.request_flow.discard(call)
                call.is_request_ended = call.is_response_ended = True
                self._forward(call, raw, 0)
            case _ if call and kind > frames.CONTINUATION:  # an extension
                self._forward(call, raw, 0)

    def _receive_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._sender.is_limited = True
            return
        self._settings.update(payload)
        self.to_interposer.append(frames.build(frames.SETTINGS, frames.ACK, 0))
        self.request_flow.resize(self._settings.window_bytes)
        for each in tuple(self.calls.values()):
            self._grant_surplus(each)
            self._end_if_over(each)

    def _response(self, response: headers.HeaderBlock) -> None:
        # Decode also for calls that are gone: the sender's dynamic table must be kept up to date.
        raw = response.raw
        if self._sender.must_decode(response.fragment):
            response.block, _ = self._sender.normalized(response.fragment)
            raw = response.reframed() if response.is_changed else raw
        call = self.calls.get(response.stream)
        if call is None:
            return
        call.has_response_headers = True
        call.is_response_ended |= bool(response.flags & frames.END_STREAM)
        self._forward(call, raw, 0)

    # Consequences for a call

    def _framed(self, request: headers.HeaderBlock) -> bytes:
        """Return downstream's header block in frames for the interposer."""
        if not self._receiver.is_stateless:
            request.block = self._receiver.made_stateless(request.block)
        if not request.is_changed and len(request.raw) <= frames.INITIAL_FRAME_BYTES:
            return request.raw
        return request.reframed()

    def _forward(self, call: InterposedCall, raw: bytes, size: int) -> None:
        """Forward a frame of the interposer as soon as downstream accepts it."""
        self.response_flow.drop(call.response.put(raw, size))
        self._deliver(call)

    def _deliver(self, call: InterposedCall) -> None:
        """Send what downstream accepts of a response now, and grant the interposer as much."""
        for raw, size in call.response.ready():
            self.response_flow.put(call.stream, raw, size, is_interposed=True)
        if not call.is_response_ended and (surplus := call.response.surplus()):
            self.to_interposer.append(frames.window_update(call.stream, surplus))
        self._end_if_over(call)

    def _grant_surplus(self, call: InterposedCall) -> None:
        if surplus := self.request_flow.surplus(call):
            self.to_downstream.append(frames.window_update(call.stream, surplus))

    def _refuse(self, call: InterposedCall, reason: str) -> None:
        """Fail a call with a gRPC status; a reset stream would be retried by the client itself."""
        message = f"cri-proxy: {reason}".encode()
        fields = [(b"grpc-status", _UNAVAILABLE), (b"grpc-message", message)]
        if not call.has_response_headers:
            fields[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        trailers = frames.headers(call.stream, headers.encoded(fields), flags=frames.END_STREAM)
        put = self.response_flow.put
        self.response_flow.drop(call.response.queued_bytes)
        if not call.is_response_ended or call.response.queue:
            put(call.stream, trailers, 0, is_interposed=True)
        if not call.is_request_ended:
            reset = frames.rst_stream(call.stream, frames.NO_ERROR)
            put(call.stream, reset, 0, is_interposed=True)
        self._end(call)
        self.has_refused = True
        self._on_change()

    def _end_if_over(self, call: InterposedCall) -> None:
        if call.is_over:
            self._end(call)

    def _end(self, call: InterposedCall) -> None:
        self.request_flow.end(call)
        self.mark_closed(call.stream)
