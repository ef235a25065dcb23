"""Span records: spans as JSON, for the files on this node and for the exporter.

Every span that leaves the process is encoded here, so this is where secrets are hidden: values of
attributes that are named like secrets, and passwords in URLs. Long texts are cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cri_proxy.lib import redaction
from cri_proxy.telemetry.spans import Span, Value

_TEXT_AT_MOST: Final = 2000


def of_span(span: Span) -> dict[str, Any]:
    """Return the record of a span, which `traces.span_of` reads.

    Written out field by field, because it is done for every span.
    """
    return {
        "name": span.name,
        "span_id": f"{span.context.span_id:016x}",
        "parent_id": None if span.parent_id is None else f"{span.parent_id:016x}",
        "kind": span.kind,
        "start": span.start,
        "end": span.end,
        "status": "error" if span.is_error else "unset",
        "message": _short(span.message) if span.message else "",
        "attributes": {name: _shown(name, value) for name, value in span.attributes.items()},
        "links": [
            {"trace_id": f"{link.trace_id:032x}", "span_id": f"{link.span_id:016x}"}
            for link in span.links
        ],
    }


def text_of(record: Mapping[str, Any]) -> str:
    """Return a record as one line."""
    return json.dumps(record, separators=(",", ":"))


def _shown(name: str, value: Value) -> Value:
    if redaction.is_secret(name):
        return redaction.HIDDEN
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str:
    shown = redaction.text(text)
    return shown if len(shown) <= _TEXT_AT_MOST else f"{shown[:_TEXT_AT_MOST]}…"
