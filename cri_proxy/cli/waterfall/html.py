"""The waterfall as a self-contained HTML page, to keep, send and open anywhere.

The startups are inserted into `page.html`, whose script only adds zooming. Nothing is loaded from
elsewhere, and all text from spans is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Final

from cri_proxy.cli.waterfall import rows
from cri_proxy.cli.waterfall.rows import Row
from cri_proxy.cli.waterfall.terminal import duration
from cri_proxy.model.traces import StoredTrace

_HERE: Final = "<!-- startups -->"
_TICKS: Final = 5
_STATE_CLASSES: Final = {
    "in progress": "state open",
    "failed": "state failed",
    "started": "state",
}


def of_traces(found: Sequence[StoredTrace]) -> str:
    """Return the page of some startups, in the given order."""
    frame = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    body = "\n".join(map(_startup, found)) or "<p>No startup is recorded on this node yet.</p>"
    return frame.replace(_HERE, body)


def _startup(trace: StoredTrace) -> str:
    startup = trace.startup
    lines = rows.of_trace(trace)
    failure = rows.failure_of(trace)
    state = rows.state_of(trace)
    shown = f'<span class="{_STATE_CLASSES[state]}">{state}</span>'
    began = datetime.fromtimestamp(startup.started / 1e9, UTC).isoformat(" ", "milliseconds")
    whole = max(1, lines[0].end)
    ticks = "".join(
        f'<i style="left:{100 * share:.2f}%">{escape(duration(share * whole / 1e9))}</i>'
        for share in (tick / _TICKS for tick in range(_TICKS))
    )
    return (
        f'<section data-whole="{whole}">\n'
        f"<h2>{escape(startup.pod)} <b>{escape(duration(trace.seconds))}</b> {shown}</h2>\n"
        f'<p class="about">{escape(began)} · trace {escape(startup.trace_id)}'
        f"{f' · {escape(failure)}' if failure else ''}</p>\n"
        '<div class="chart">\n'
        f'<div class="axis"><span></span><span></span><div class="lane">{ticks}</div></div>\n'
        f"{''.join(_row(row, whole) for row in lines)}</div>\n</section>"
    )


def _row(row: Row, whole: int) -> str:
    left = 100 * max(0, row.start) / whole
    width = 100 * (max(row.end, row.start) - max(0, row.start)) / whole
    classes = row.span.kind
    classes += " critical" if row.is_critical else ""
    classes += " failed" if row.has_failed else ""
    return (
        f'<details class="{classes}"><summary>'
        f'<span class="name" style="padding-left:{row.depth * 0.9:.1f}rem" '
        f'title="{escape(row.label)}">{escape(row.label)}</span>'
        f'<span class="took">{escape(duration(row.span.seconds))}</span>'
        f'<div class="lane"><div class="bar" data-start="{row.start}" data-end="{row.end}" '
        f'style="left:{left:.4f}%;width:{width:.4f}%"></div>'
        f'<span class="note" data-start="{row.start}" data-end="{row.end}">'
        f"{escape(row.note)}</span>"
        f"</div></summary>{_facts(row)}</details>\n"
    )


def _facts(row: Row) -> str:
    """Return all facts about a span, shown when its row is opened."""
    span = row.span
    facts: Iterable[tuple[str, object]] = (
        ("span", span.name),
        ("began after", duration(max(0, row.start) / 1e9)),
        ("took", duration(span.seconds)),
        *(((span.status, span.message),) if span.message else ()),
        *sorted(span.attributes.items()),
        *(("link", f"trace {link.trace_id} span {link.span_id}") for link in span.links),
    )
    cells = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts
    )
    return f"<dl>{cells}</dl>"
