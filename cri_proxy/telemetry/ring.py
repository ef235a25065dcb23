"""The ring: the last startups of this node on disk, bounded, without a collector.

    <root>/traces/
      1795396095123-<trace id>.jsonl    one startup; its name begins with its time in milliseconds
          {"startup": {...}}            the first line: whose it is
          {"span": {...}}               then its spans in the order of their ends, the root last

It receives every span that ends, keeps those of startups it was told of, and forgets the oldest
startup beyond `keep`. Writing is the business of a thread: whoever ends a span pays for putting it
into a queue. Lines are appended and never synced; a crash costs the last of them, and a line that
is not whole is passed over. The files say which startups were under way, which is how the next
daemon goes on with them. Readers need no lock and no daemon.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cri_proxy.lib import redaction
from cri_proxy.model import traces
from cri_proxy.model.traces import Span, Startup, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    _Piece: TypeAlias = tuple[str, dict[str, Any] | ReadableSpan]

SPANS_AT_MOST: Final = 2000
_TEXT_AT_MOST: Final = 2000
_QUEUED_AT_MOST: Final = 10_000
_WARN_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_UNWRITTEN_AT_MOST: Final = 1000
_GATHER_SECONDS: Final = 0.05
_log = logging.getLogger(__name__)


class Ring:
    """The startups below `directory`, written by one process at a time."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._names = _names_below(directory)
        self._counts: dict[str, int] = dict.fromkeys(self._names, 0)
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._warned_at = -_WARN_SECONDS
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="trace ring", daemon=True)
        self._thread.start()

    def begin(self, startup: Startup) -> None:
        """Keep what belongs to `startup` from now on; once for each."""
        if startup.trace_id not in self._names:
            self._names[startup.trace_id] = (
                f"{startup.started // 1_000_000}-{startup.trace_id}.jsonl"
            )
            self._counts[startup.trace_id] = 0
            if len(self._names) > self._keep + _UNWRITTEN_AT_MOST:  # a disk that takes nothing
                self._forget(next(iter(self._names)))
        self._put(startup.trace_id, {"startup": traces.record_of(startup)})

    def add(self, span: ReadableSpan) -> None:
        """Keep a span that has ended, if it belongs to a startup."""
        context = span.get_span_context()
        assert context is not None
        trace_id = f"{context.trace_id:032x}"
        count = self._counts.get(trace_id, SPANS_AT_MOST)
        if count < SPANS_AT_MOST:
            self._counts[trace_id] = count + 1
            self._put(trace_id, span)

    def recent(self, seconds: float) -> list[Trace]:
        """Return the startups of which something was written within the last seconds."""
        since = time.time() - seconds
        found = []
        for name in list(self._names.values()):
            place = self._directory / name
            try:
                is_recent = place.stat().st_mtime >= since
            except OSError:
                continue
            if is_recent and (trace := _trace_of(place)) is not None:
                found.append(trace)
        return found

    def close(self) -> None:
        """Write what is left; what a full or hanging disk does not take is given up."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, trace_id: str, what: dict[str, Any] | ReadableSpan) -> None:
        if self._queue.qsize() < _QUEUED_AT_MOST:
            self._queue.put((trace_id, what))

    def _write(self) -> None:
        """Write what comes until there is no more, as much at a time as there is.

        What comes first waits for the rest of its call, which is then over: a thread that works
        takes the interpreter from the loop.
        """
        while (first := self._queue.get()) is not None:
            self._closing.wait(_GATHER_SECONDS)
            pieces = [first]
            is_last = False
            while not self._queue.empty():
                piece = self._queue.get()
                if piece is None:
                    is_last = True
                    break
                pieces.append(piece)
            try:
                self._append(pieces)
            except OSError as error:
                self._warn(error)
            if is_last:
                return

    def _append(self, pieces: Iterable[_Piece]) -> None:
        lines: dict[str, list[str]] = {}
        for trace_id, what in pieces:
            record = what if isinstance(what, dict) else {"span": _record_of(what)}
            lines.setdefault(trace_id, []).append(json.dumps(record, separators=(",", ":")))
        for trace_id, texts in lines.items():
            name = self._names.get(trace_id)
            if name is None:  # fell out of the ring meanwhile
                continue
            place = self._directory / name
            is_new = not place.exists()
            if is_new:
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            with place.open("a", encoding="utf-8") as file:
                # A line that a crash left unfinished must not swallow the next one.
                file.write("".join(f"\n{text}" for text in texts))
            if is_new:
                self._prune()

    def _prune(self) -> None:
        """Take the oldest startups away until no more than `keep` are left."""
        found = sorted(_names_below(self._directory).items(), key=lambda pair: pair[1])
        for trace_id, name in found[: max(0, len(found) - self._keep)]:
            (self._directory / name).unlink(missing_ok=True)
            self._forget(trace_id)

    def _forget(self, trace_id: str) -> None:
        self._names.pop(trace_id, None)
        self._counts.pop(trace_id, None)

    def _warn(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            _log.warning("traces cannot be kept in %s: %s", self._directory, error)


def load(directory: Path) -> list[Trace]:
    """Return the startups that are kept below `directory`, the newest first."""
    names = sorted(_names_below(directory).values(), reverse=True)
    found = [_trace_of(directory / name) for name in names]
    return [trace for trace in found if trace is not None]


def _names_below(directory: Path) -> dict[str, str]:
    """Return the files of a ring by the trace ids in their names."""
    try:
        names = [each.name for each in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {_trace_id_of(name): name for name in names if name.endswith(".jsonl")}


def _trace_id_of(name: str) -> str:
    return name.partition("-")[2].removesuffix(".jsonl")


def _trace_of(place: Path) -> Trace | None:
    """Return the startup in one file, None when there is none or it has just been taken away."""
    try:
        text = place.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    startup: Startup | None = None
    spans: list[Span] = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            if "startup" in record:
                startup = startup or traces.startup_of(record["startup"])
            else:
                spans.append(traces.span_of(record["span"]))
        except (ValueError, KeyError, TypeError):
            continue
    if startup is None:
        return None
    return Trace(startup, tuple(sorted(spans, key=lambda span: (span.start, -span.end))))


def _record_of(span: ReadableSpan) -> dict[str, Any]:
    """Return what `traces.span_of` reads of an SDK's span; its events are left out.

    Written out, because it is done for every span: the fields are those of `traces.Span`.
    """
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "span_id": f"{context.span_id:016x}",
        "parent_id": None if span.parent is None else f"{span.parent.span_id:016x}",
        "kind": span.kind.name.lower(),
        "start": span.start_time or 0,
        "end": span.end_time or 0,
        "status": span.status.status_code.name.lower(),
        "message": _short(span.status.description or ""),
        "attributes": _attributes_of(span.attributes or {}),
        "links": [
            {
                "trace_id": f"{link.context.trace_id:032x}",
                "span_id": f"{link.context.span_id:016x}",
            }
            for link in span.links
        ],
    }


def _attributes_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: redaction.HIDDEN
        if redaction.is_secret(name)
        else _short(value)
        if isinstance(value, str)
        else value
        for name, value in attributes.items()
    }


def _short(text: str) -> str:
    shown = redaction.text(text)
    return shown if len(shown) <= _TEXT_AT_MOST else f"{shown[:_TEXT_AT_MOST]}…"
