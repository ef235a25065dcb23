"""The streams that are lent to the interposer, and our connection to it.

A stream is lent when downstream opens it with an interposed method. Its request goes through
`lending`, its answer through `answers` and `delivery`, to where downstream's and the interposer's
windows meet. With the interposer we speak for ourselves: our SETTINGS, our PING answers, a
connection window of our own. It is connected to when the first stream is lent, stays as long as
downstream does, and is connected to anew if it was lost.

Without the interposer its calls are answered with UNAVAILABLE, as a gRPC peer would that cannot do
its work now, and all others do not notice. The streams of recent loans are remembered, so that
what downstream still sends on them reaches nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from cri_proxy.router import frames, headers
from cri_proxy.router.delivery import INTERPOSER_WINDOW_BYTES, Delivery
from cri_proxy.router.frames import Violation
from cri_proxy.router.lending import Lending, Loan
from cri_proxy.router.terms import Terms

REMEMBERED: Final = 4096
"""Streams of past loans on which downstream's late frames are still recognized."""

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
        delivery: Delivery,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self.state = State.ABSENT
        self.to_downstream = to_downstream
        self.to_interposer = to_interposer
        self.delivery = delivery
        self.lending = Lending(to_interposer)
        self.is_heard = False
        """The interposer has sent headers or DATA since this was last reset."""
        self.has_refused = False
        """Calls have been answered without the interposer since this was last reset."""
        self._on_change = on_change
        self._past: dict[int, None] = {}
        self._past_order: deque[int] = deque()
        self._begin()

    # What downstream does

    @property
    def loans(self) -> dict[int, Loan]:
        """The lent streams."""
        return self.lending.loans

    def is_past(self, stream: int) -> bool:
        """Return whether what comes on the stream is for nobody."""
        return stream in self._past

    def remember(self, stream: int) -> None:
        """Take note that what comes on the stream is for nobody."""
        self._past[stream] = None
        self._past_order.append(stream)
        if len(self._past_order) > REMEMBERED:
            del self._past[self._past_order.popleft()]

    def connect(self, terms: Terms) -> None:
        """Want a connection to the interposer, which is told downstream's terms."""
        if self.state is not State.ABSENT:
            return
        self._become(State.WANTED)
        more = INTERPOSER_WINDOW_BYTES - frames.INITIAL_WINDOW_BYTES
        self.to_interposer.append(frames.PREFACE)
        self.to_interposer.append(frames.build(frames.SETTINGS, 0, 0, terms.summary()))
        self.to_interposer.append(frames.window_update(0, more))

    def lend(self, request: headers.Fields, *, belief: int, answer_room: int) -> None:
        """Lend the stream that a request opens."""
        loan = self.lending.open(request.stream, belief=belief, answer_room=answer_room)
        loan.is_request_over = bool(request.flags & frames.END_STREAM)
        if self.state is State.LEAVING:
            self._refuse(loan, _STOPPING)
            return
        self.to_interposer.append(self._framed(request))
        self._tell_surplus(loan)
        self._deliver(loan)

    def trailers(self, loan: Loan, request: headers.Fields) -> None:
        """Take downstream's trailers."""
        self.lending.trailers(loan, self._framed(request))
        loan.is_request_over |= bool(request.flags & frames.END_STREAM)
        self._end_if_over(loan)

    def take(self, loan: Loan, raw: bytes, kind: int, flags: int) -> None:
        """Take any other frame of downstream's on a lent stream."""
        payload = raw[frames.HEADER_BYTES :]
        match kind:
            case frames.DATA:
                loan.is_request_over |= bool(flags & frames.END_STREAM)
                self.lending.data(loan, flags, payload)
                self._end_if_over(loan)
            case frames.RST_STREAM:
                self.delivery.drop(loan.answers.waiting_bytes)
                self._end(loan)
                self.to_interposer.append(raw)
            case frames.WINDOW_UPDATE:
                loan.answers.room += frames.number(payload) & frames.LARGEST_WINDOW
                self._deliver(loan)
            case frames.PRIORITY:
                pass
            case _:
                self.to_interposer.append(raw)

    def resize(self, change: int) -> None:
        """Change the windows that downstream has on lent streams."""
        for loan in tuple(self.loans.values()):
            loan.answers.room += change
            self._deliver(loan)

    # What the interposer does

    def opened(self) -> None:
        """Take note that the connection stands."""
        self._become(State.OPEN)

    def lost(self, reason: str) -> None:
        """Take note that there is no connection; the calls that were on it get `reason`."""
        self._become(State.ABSENT)
        self.to_interposer.clear()
        for loan in tuple(self.loans.values()):
            self._refuse(loan, reason)
        self.delivery.interposer_left()
        self._begin()

    def receive(self, data: bytes) -> None:
        """Take the interposer's bytes; raises Violation if it broke the protocol."""
        buffer, found = self._frames.feed(data)
        for start, stop, kind, flags, stream in found:
            self._frame(buffer[start:stop], kind, flags, stream)
        if self._frames.excess:
            raise Violation(frames.FRAME_SIZE_ERROR, "a frame is too long")
        credit = self.delivery.interposer_grant()
        if credit:
            self.to_interposer.append(frames.window_update(0, credit))

    def _begin(self) -> None:
        self._frames = frames.FrameReader()
        self._terms = Terms()
        self._sender = headers.HeaderSender()
        self._receiver = headers.HeaderReceiver()
        self._block: headers.Block | None = None
        self.lending.begin()

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()

    def _frame(self, raw: bytes, kind: int, flags: int, stream: int) -> None:
        if self._block is not None:
            if self._block.extend(raw, kind, flags, stream):
                block, self._block = self._block, None
                self._answer(block.whole())
            return
        frames.check_stream(kind, stream)
        self.is_heard |= kind <= frames.HEADERS
        payload = raw[frames.HEADER_BYTES :]
        loan = self.loans.get(stream) if stream else None
        match kind:
            case frames.DATA:
                self.delivery.receive(len(payload))
                if loan:
                    loan.is_answer_over |= bool(flags & frames.END_STREAM)
                    self._pass(loan, raw, len(payload))
                else:
                    self.delivery.drop(len(payload))
            case frames.HEADERS:
                block = headers.Block(flags, stream, raw)
                if flags & frames.END_HEADERS:
                    self._answer(block.whole())
                else:
                    self._block = block
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise frames.misplaced(kind)
            case frames.SETTINGS:
                self._settings(flags, payload)
            case frames.PING if not flags & frames.ACK:
                self.to_interposer.append(frames.build(frames.PING, frames.ACK, 0, payload))
            case frames.GOAWAY:
                self._goaway(frames.number(payload) & frames.LARGEST_STREAM)
            case frames.WINDOW_UPDATE if not stream:
                for each in self.lending.grant(frames.number(payload) & frames.LARGEST_WINDOW):
                    self._end_if_over(each)
            case frames.WINDOW_UPDATE if loan:
                self.lending.grant_stream(loan, frames.number(payload) & frames.LARGEST_WINDOW)
                self._tell_surplus(loan)
                self._end_if_over(loan)
            case frames.RST_STREAM if loan:
                self.lending.stop(loan)
                loan.is_request_over = loan.is_answer_over = True
                self._pass(loan, raw, 0)
            case _ if loan and kind > frames.CONTINUATION:
                self._pass(loan, raw, 0)

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._sender.is_bound = True
            return
        self._terms.announce(payload)
        self.to_interposer.append(frames.build(frames.SETTINGS, frames.ACK, 0))
        self.lending.resize(self._terms.window_bytes)
        for each in tuple(self.loans.values()):
            self._tell_surplus(each)
            self._end_if_over(each)

    def _answer(self, answer: headers.Fields) -> None:
        raw = answer.raw
        if self._sender.is_to_be_read(answer.fragment):
            answer.block, _ = self._sender.read(answer.fragment)
            raw = answer.reframed() if answer.is_changed else raw
        loan = self.loans.get(answer.stream)
        if loan is None:
            return
        loan.is_answered = True
        loan.is_answer_over |= bool(answer.flags & frames.END_STREAM)
        self._pass(loan, raw, 0)

    def _goaway(self, last: int) -> None:
        self._become(State.LEAVING)
        for loan in [each for each in self.loans.values() if each.stream > last]:
            self._refuse(loan, _STOPPING)

    # What follows for a loan

    def _framed(self, request: headers.Fields) -> bytes:
        """Return a header block of downstream's in the frames that the interposer is to get."""
        if not self._receiver.is_closed:
            request.block = self._receiver.close(request.block)
        if not request.is_changed and len(request.raw) <= frames.INITIAL_FRAME_BYTES:
            return request.raw
        return request.reframed()

    def _pass(self, loan: Loan, raw: bytes, size: int) -> None:
        """Pass a frame of the interposer's on, as soon as downstream takes it."""
        padding = loan.answers.put(raw, size)
        if padding:
            self.delivery.drop(padding)
        self._deliver(loan)

    def _deliver(self, loan: Loan) -> None:
        """Send what downstream takes of a lent stream now, and grant the interposer as much."""
        for raw, size in loan.answers.ready():
            self.delivery.put(loan.stream, raw, size, is_interposers=True)
        surplus = 0 if loan.is_answer_over else loan.answers.surplus()
        if surplus:
            self.to_interposer.append(frames.window_update(loan.stream, surplus))
        self._end_if_over(loan)

    def _tell_surplus(self, loan: Loan) -> None:
        surplus = self.lending.surplus(loan)
        if surplus:
            self.to_downstream.append(frames.window_update(loan.stream, surplus))

    def _refuse(self, loan: Loan, reason: str) -> None:
        """End a lent stream as gRPC would: a status downstream can act upon, no repetition."""
        fields = [
            (b"grpc-status", _UNAVAILABLE),
            (b"grpc-message", f"cri-proxy: {reason}".encode()),
        ]
        if not loan.is_answered:
            fields[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        answer = frames.headers(loan.stream, headers.encoded(fields), flags=frames.END_STREAM)
        put = self.delivery.put
        self.delivery.drop(loan.answers.waiting_bytes)
        if not loan.is_answer_over or loan.answers.waiting:
            put(loan.stream, answer, 0, is_interposers=True)
        if not loan.is_request_over:
            put(loan.stream, frames.rst_stream(loan.stream, 0), 0, is_interposers=True)
        self._end(loan)
        self.has_refused = True
        self._on_change()

    def _end_if_over(self, loan: Loan) -> None:
        if loan.is_over:
            self._end(loan)

    def _end(self, loan: Loan) -> None:
        self.lending.end(loan)
        self.remember(loan.stream)
