"""The ledger of request DATA: streams lent to the interposer, and what waits for its windows.

Downstream believes in one peer, whose windows are upstream's: upstream's connection window, and
for every stream upstream's INITIAL_WINDOW_SIZE. The interposer has windows of its own. So between
the two stands a `Loan` for each of its streams with what the interposer takes and what downstream
believes; what arrives beyond the former waits here, and downstream is told whenever the former
grows beyond the latter.

    granted downstream  =  what the interposer takes - what waits - what downstream believes

Of the connection window, whose room is written down here for both, downstream's DATA to the
interposer has eaten bytes that upstream will never see, and so never grant again: they are owed to
downstream and paid back at once, unless too much waits. Hence what waits is bounded, and a slow
interposer slows nobody else until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from cri_proxy.router import frames
from cri_proxy.router.answers import Answers

WAITING_BYTES: Final = 4 << 20
"""When more than that waits for the interposer, downstream's connection window is not refilled."""
LARGEST_BELIEF: Final = 1 << 30
"""No stream window is raised beyond that, so that a later change of the initial one fits."""


class Loan:
    """A stream lent to the interposer."""

    __slots__ = (
        "answers",
        "belief",
        "is_answer_over",
        "is_answered",
        "is_request_over",
        "stream",
        "waiting",
        "waiting_bytes",
        "window",
    )

    def __init__(self, stream: int, *, window: int, belief: int, answer_room: int) -> None:
        self.stream = stream
        self.answers = Answers(answer_room)
        self.window = window
        """Bytes that the interposer takes on this stream."""
        self.belief = belief
        """Bytes that downstream believes it may send on this stream."""
        self.waiting: deque[tuple[bytes, int, bool]] = deque()
        """What waits: DATA, its END_STREAM flag, True; or whole frames of trailers, 0, False."""
        self.waiting_bytes = 0
        self.is_answered = False
        """Response headers have gone downstream."""
        self.is_request_over = False
        self.is_answer_over = False

    @property
    def is_over(self) -> bool:
        """Both directions have ended and nothing waits in either."""
        return (
            self.is_request_over
            and self.is_answer_over
            and not self.waiting
            and not self.answers.waiting
        )


class Lending:
    """All loans of a connection, and the windows of the interposer's side."""

    __slots__ = (
        "_out",
        "_stuck",
        "downstream_room",
        "loans",
        "owed",
        "room",
        "waiting_bytes",
        "window",
    )

    def __init__(self, out: list[bytes]) -> None:
        self.loans: dict[int, Loan] = {}
        self.downstream_room = frames.INITIAL_WINDOW_BYTES
        """Bytes of DATA that downstream may send now, to whomever: its connection window."""
        self.owed = 0
        """Bytes of that window to be given back."""
        self.waiting_bytes = 0
        self._out = out
        self._stuck: dict[int, Loan] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a new interposer connection."""
        self.room = frames.INITIAL_WINDOW_BYTES
        self.window = frames.INITIAL_WINDOW_BYTES

    def open(self, stream: int, *, belief: int, answer_room: int) -> Loan:
        """Lend a stream on which downstream believes it may send `belief` bytes, and takes some."""
        loan = Loan(stream, window=self.window, belief=belief, answer_room=answer_room)
        self.loans[stream] = loan
        return loan

    def end(self, loan: Loan) -> None:
        """Forget a loan with all that waits for it."""
        self.stop(loan)
        del self.loans[loan.stream]

    def stop(self, loan: Loan) -> None:
        """Forget what waits for the interposer, which wants no more of it."""
        self._stuck.pop(loan.stream, None)
        self.waiting_bytes -= loan.waiting_bytes
        loan.waiting_bytes = 0
        loan.waiting.clear()

    def data(self, loan: Loan, flags: int, payload: bytes) -> None:
        """Take downstream's DATA, as the payload of its frame, and send what may be sent of it."""
        loan.belief -= len(payload)
        self.owed += len(payload)
        data = frames.unpadded(flags, payload)
        loan.waiting.append((data, flags & frames.END_STREAM, True))
        loan.waiting_bytes += len(data)
        self.waiting_bytes += len(data)
        self._flush(loan)

    def trailers(self, loan: Loan, raw: bytes) -> None:
        """Take downstream's trailers, behind what waits."""
        if loan.waiting:
            loan.waiting.append((raw, 0, False))
        else:
            self._out.append(raw)

    def grant(self, increment: int) -> Sequence[Loan]:
        """Take the interposer's grant for its connection; return the loans that waited for it."""
        self.room += increment
        stuck = tuple(self._stuck.values())
        for loan in stuck:
            self._flush(loan)
        return stuck

    def grant_stream(self, loan: Loan, increment: int) -> None:
        """Take the interposer's grant for a stream."""
        loan.window += increment
        self._flush(loan)

    def resize(self, window: int) -> None:
        """Take the interposer's SETTINGS: the initial window of streams."""
        change = window - self.window
        self.window = window
        for loan in self.loans.values():
            loan.window += change
        for loan in tuple(self._stuck.values()):
            self._flush(loan)

    def believe(self, change: int) -> None:
        """Take note that upstream's SETTINGS have changed every window that downstream has."""
        for loan in self.loans.values():
            loan.belief += change

    def surplus(self, loan: Loan) -> int:
        """Return what downstream may be granted on the stream, and count it as granted."""
        if loan.is_request_over:
            return 0
        surplus = min(loan.window - loan.waiting_bytes, LARGEST_BELIEF) - loan.belief
        if surplus <= 0:
            return 0
        loan.belief += surplus
        return surplus

    def pay(self) -> int:
        """Return what downstream is given back of its connection window now."""
        if self.waiting_bytes > WAITING_BYTES:
            return 0
        paid, self.owed = self.owed, 0
        self.downstream_room += paid
        return paid

    def _flush(self, loan: Loan) -> None:
        waiting = loan.waiting
        while waiting:
            data, end, is_data = waiting[0]
            if not is_data:
                self._out.append(data)
                waiting.popleft()
                continue
            size = min(len(data), self.room, loan.window, frames.INITIAL_FRAME_BYTES)
            if data and size < len(data):
                if size > 0:
                    self._send(loan, data[:size], 0)
                    waiting[0] = data[size:], end, True
                    continue
                break
            waiting.popleft()
            self._send(loan, data, end)
        if waiting:
            self._stuck[loan.stream] = loan
        else:
            self._stuck.pop(loan.stream, None)

    def _send(self, loan: Loan, data: bytes, end: int) -> None:
        self._out.append(frames.build(frames.DATA, end, loan.stream, data))
        size = len(data)
        self.room -= size
        loan.window -= size
        loan.waiting_bytes -= size
        self.waiting_bytes -= size
