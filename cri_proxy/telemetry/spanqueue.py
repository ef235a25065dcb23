"""The span queue: ended spans on their way from the event loop to disk and to the exporter.

    event loop ── take ──> queue ── thread: encode ──> ring         startups that are traced
                                                   └─> sender       traces that are sampled

Ending a span only appends it to the queue. A background thread encodes batches every 0.2 s, usually
after the call has been answered: while it works, it takes the interpreter from the event loop. The
queue is bounded; what does not fit is dropped.
"""

from __future__ import annotations

import collections
import threading
from typing import Final

from cri_proxy.model.traces import StoredStartup, StoredTrace
from cri_proxy.telemetry import encoding, logs
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.sender import SpanSender
from cri_proxy.telemetry.spans import Span

_QUEUED_AT_MOST: Final = 10_000
_GATHER_SECONDS: Final = 0.2
CLOSE_SECONDS: Final = 5.0
_log = logs.of(__name__)


class SpanQueue:
    """The queue and its thread, from now until `close`; `ring` or `sender` may be missing."""

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
        """Whether spans reach a collector, so that other programs' can be their children."""
        return self._sender is not None

    def begin(self, startup: StoredStartup) -> None:
        """Keep the spans of `startup` from now on."""
        if self._ring is not None:
            self._ring.begin(startup)

    def recent(self, seconds: float) -> list[StoredTrace]:
        """Return the startups that were written to within the last `seconds`."""
        return [] if self._ring is None else self._ring.recent(seconds)

    def take(self, span: Span) -> None:
        """Append a span that has ended."""
        if len(self._queue) < _QUEUED_AT_MOST:
            self._queue.append(span)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write and send what is queued, for at most `seconds` each."""
        self._closing.set()
        self._thread.join(seconds)
        if self._sender is not None:
            self._sender.close(seconds)

    def _work(self) -> None:
        is_open = True
        while is_open:
            # Polls: a wake-up for each span would cost time in the call that ends it.
            is_open = not self._closing.wait(_GATHER_SECONDS)
            batch = []
            while self._queue:
                batch.append(self._queue.popleft())
            try:
                self._encode(batch)
            except Exception as fault:  # noqa: BLE001 - the spans that follow must not be lost, too
                _log.error("spans were lost by a fault", fault=fault)

    def _encode(self, batch: list[Span]) -> None:
        for span in batch:
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
