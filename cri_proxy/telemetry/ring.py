"""The trace ring: a ring buffer on disk with the last pod startups of this node.

    <root>/traces/
      1795396095123-<trace id>.jsonl    one startup; its name begins with its time in milliseconds
          {"startup": {...}}            the first line: the pod
          {"span": {...}}               then its spans in the order in which they ended, root last

It receives every ended span, keeps those of startups that were announced by `begin`, and deletes
the oldest startup beyond `keep`. `begin` is called in the event loop and touches no disk; `add` and
`flush` are called in the span queue's thread. Lines are appended and never synced: a crash loses
the last ones, and readers skip a line that is incomplete. The files show which startups were under
way, and the next daemon continues those. Readers need neither a lock nor a running daemon.
"""

from __future__ import annotations

import collections
import json
import time
from pathlib import Path
from typing import Final

from cri_proxy.model import traces
from cri_proxy.model.traces import StoredSpan, StoredStartup, StoredTrace
from cri_proxy.telemetry import encoding, logs

SPANS_AT_MOST: Final = 2000
_UNWRITTEN_AT_MOST: Final = 1000
_WARN_SECONDS: Final = 60.0
_log = logs.of(__name__)


class Ring:
    """The startups below `directory`; one process writes at a time."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._names = _names_below(directory)
        self._counts: dict[str, int] = dict.fromkeys(self._names, 0)
        self._begun: collections.deque[StoredStartup] = collections.deque(maxlen=_UNWRITTEN_AT_MOST)
        self._lines: dict[str, list[str]] = {}
        self._warned_at = -_WARN_SECONDS

    def begin(self, startup: StoredStartup) -> None:
        """Keep the spans of `startup` from now on; called once for each."""
        if startup.trace_id not in self._names:
            self._counts[startup.trace_id] = 0
            self._names[startup.trace_id] = (
                f"{startup.started // 1_000_000}-{startup.trace_id}.jsonl"
            )
            if len(self._names) > self._keep + _UNWRITTEN_AT_MOST:  # the disk takes nothing
                self._forget(next(iter(self._names)))
        self._begun.append(startup)

    def add(self, trace_id: str, text: str) -> None:
        """Keep the record of an ended span if it belongs to a startup."""
        count = self._counts.get(trace_id, SPANS_AT_MOST)
        if count < SPANS_AT_MOST:
            self._counts[trace_id] = count + 1
            self._lines.setdefault(trace_id, []).append(f'{{"span":{text}}}')

    def flush(self) -> None:
        """Write what was added since the last call; what the disk refuses is dropped."""
        lines, self._lines = self._lines, {}
        while self._begun:
            startup = self._begun.popleft()
            first = encoding.text_of({"startup": traces.record_of(startup)})
            lines[startup.trace_id] = [first, *lines.get(startup.trace_id, ())]
        try:
            self._append(lines)
        except OSError as error:
            now = time.monotonic()
            if now - self._warned_at >= _WARN_SECONDS:
                self._warned_at = now
                _log.warning("traces cannot be kept", directory=self._directory, why=error)

    def recent(self, seconds: float) -> list[StoredTrace]:
        """Return the startups that were written to within the last `seconds`."""
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

    def _append(self, lines: dict[str, list[str]]) -> None:
        has_new = False
        for trace_id, texts in lines.items():
            name = self._names.get(trace_id)
            if name is None:  # deleted meanwhile
                continue
            place = self._directory / name
            if not place.exists():
                has_new = True
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            with place.open("a", encoding="utf-8") as file:
                # The newline comes first, in case a crash left the last line incomplete.
                file.write("".join(f"\n{text}" for text in texts))
        if has_new:
            self._prune()

    def _prune(self) -> None:
        """Delete the oldest startups until no more than `keep` are left."""
        found = sorted(_names_below(self._directory).items(), key=lambda pair: pair[1])
        for trace_id, name in found[: max(0, len(found) - self._keep)]:
            (self._directory / name).unlink(missing_ok=True)
            self._forget(trace_id)

    def _forget(self, trace_id: str) -> None:
        self._names.pop(trace_id, None)
        self._counts.pop(trace_id, None)


def load(directory: Path) -> list[StoredTrace]:
    """Return the startups below `directory`, newest first."""
    names = sorted(_names_below(directory).values(), reverse=True)
    return [trace for name in names if (trace := _trace_of(directory / name)) is not None]


def _names_below(directory: Path) -> dict[str, str]:
    """Return the names of a ring's files by the trace ids in them."""
    try:
        places = [each for each in directory.iterdir() if each.suffix == ".jsonl"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {each.stem.partition("-")[2]: each.name for each in places}


def _trace_of(place: Path) -> StoredTrace | None:
    """Return the startup in one file; None if it has none, or was just deleted."""
    try:
        text = place.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    startup: StoredStartup | None = None
    spans: list[StoredSpan] = []
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
    return StoredTrace(startup, tuple(sorted(spans, key=lambda span: (span.start, -span.end))))
