"""The outlet: where spans leave the loop, for the ring and for the program that sends them.

    loop ── take ──> queue ── thread: make records ──> ring         every startup that is traced
                                                   └─> sender       what is sampled

Whoever ends a span pays for putting it into a queue. A thread makes a record of each, as much at a
time as there is and not before their call is over: a thread that works takes the interpreter from
the loop. The queue is bounded; what does not fit is lost.
"""

from __future__ import annotations

import collections
import threading
from typing import Final

from cri_proxy.model.traces import StoredStartup, StoredTrace
from cri_proxy.telemetry import encoding, logs, spans
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.sender import SpanSender
from cri_proxy.telemetry.spans import Span

_QUEUED_AT_MOST: Final = 10_000
_GATHER_SECONDS: Final = 0.2
CLOSE_SECONDS: Final = 5.0
_log = logs.of(__name__)


class SpanQueue:
    """Takes spans from now on until it is closed; either side may be missing."""

    def __init__(self, ring: Ring | None, sender: SpanSender | None) -> None:
        self._ring = ring
        self._sender = sender
        self._queue: collections.deque[Span] = collections.deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    @property
    def is_keeping(self) -> bool:
        """Whether startups are kept on this node."""
        return self._ring is not None

    @property
    def is_sending(self) -> bool:
        """Whether spans reach a collector, so that others may hang theirs below."""
        return self._sender is not None

    def begin(self, startup: StoredStartup) -> None:
        """Keep what belongs to `startup` from now on."""
        if self._ring is not None:
            self._ring.begin(startup)
            self._queue.append(spans.NOTHING)  # has it written, however long the first call takes

    def recent(self, seconds: float) -> list[StoredTrace]:
        """Return the startups that were kept of within the last seconds."""
        return [] if self._ring is None else self._ring.recent(seconds)

    def take(self, span: Span) -> None:
        """Take a span that has ended."""
        if len(self._queue) < _QUEUED_AT_MOST:
            self._queue.append(span)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write and send the rest, as far as that goes within as many seconds for each."""
        self._closing.set()
        self._thread.join(seconds)
        if self._sender is not None:
            self._sender.close(seconds)

    def _work(self) -> None:
        is_open = True
        while is_open:
            # Looks by itself: to be woken by a span would cost the call that ends it a turn.
            is_open = not self._closing.wait(_GATHER_SECONDS)
            batch = []
            while self._queue:
                batch.append(self._queue.popleft())
            if not batch and not self._has_backlog():
                continue
            try:
                self._hand_on(batch)
            except Exception as fault:  # noqa: BLE001 - one span must not cost all that follow
                _log.error("spans were lost by a fault", fault=fault)

    def _has_backlog(self) -> bool:
        return self._sender is not None and self._sender.has_backlog

    def _hand_on(self, batch: list[Span]) -> None:
        for span in batch:
            if span is spans.NOTHING:
                continue
            text = encoding.text_of(encoding.of_span(span))
            trace_id = f"{span.context.trace_id:032x}"
            if self._ring is not None:
                self._ring.add(trace_id, text)
            if self._sender is not None and span.context.is_sampled:
                self._sender.add(trace_id, span.context.state, text)
        if self._ring is not None:
            self._ring.flush()
        if self._sender is not None:
            self._sender.flush()
