"""Structured logs: an event in a few words and its fields, as text for people or as JSON.

    log = logs.of(__name__)
    log.info("environment ready", reference=reference, seconds=2.1)

    2026-01-31T12:00:00.123Z info realizer.realizer: environment ready reference=a/b:3 seconds=2.1
    {"time": "…", "level": "info", "logger": "realizer.realizer", "event": "environment ready", …}

Loggers are `lib.logger`'s, and their records the standard library's: lines of other libraries are
formatted in the same way.
Control characters are escaped, so that a record is one line. Within a span a line has the span's
ids. Values of fields that are named like secrets, and passwords in URLs, are hidden.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Final, TextIO

from cri_proxy.lib import redaction
from cri_proxy.lib.logger import FIELDS, Log, of
from cri_proxy.settings import schema
from cri_proxy.telemetry import spans

__all__ = ["Log", "of", "setup", "Text", "Json"]

_ROOT: Final = "cri_proxy."
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# sd-daemon(3): the journal takes the priority of a line from this prefix.
_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}


def setup(settings: schema.LogSettings, *, stream: TextIO | None = None) -> None:
    """Send all lines of this process to `stream`, by default standard error.

    A second call replaces the first.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    is_journal = _is_journal(stream)
    if settings.format == "json" or (
        settings.format == "auto" and not is_journal and not stream.isatty()
    ):
        handler.setFormatter(Json())
    else:
        handler.setFormatter(Text(has_time=not is_journal, has_priority=is_journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    if settings.level == "debug":
        # Debug lines of libraries are of no use here, and some contain secrets.
        for library in ("urllib3", "dulwich", "asyncio", "grpc", "hpack", "opentelemetry"):
            logging.getLogger(library).setLevel(logging.INFO)


class Text(logging.Formatter):
    """One line of words and key=value pairs; the journal adds the time and reads the priority."""

    def __init__(self, *, has_time: bool = True, has_priority: bool = False) -> None:
        super().__init__()
        self._has_time = has_time
        self._has_priority = has_priority

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`, followed by its traceback if it has one."""
        level = _level_of(record)
        words = [_time_of(record)] if self._has_time else []
        words += [
            level,
            f"{record.name.removeprefix(_ROOT)}:",
            _escaped(redaction.text(record.getMessage())),
        ]
        words += [f"{name}={_quoted(value)}" for name, value in _fields_of(record)]
        lines = [" ".join(words)]
        if record.exc_info:
            lines += redaction.text(self.formatException(record.exc_info)).splitlines()
        prefix = _PRIORITIES[level] if self._has_priority else ""
        return "\n".join(prefix + line for line in lines)


class Json(logging.Formatter):
    """One JSON object a line; fields stand beside time, level, logger and event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object of `record`; a traceback is its `exception`."""
        line: dict[str, object] = {
            "time": _time_of(record),
            "level": _level_of(record),
            "logger": record.name.removeprefix(_ROOT),
            "event": redaction.text(record.getMessage()),
        }
        for name, value in _fields_of(record):
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = redaction.text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def _is_journal(stream: TextIO) -> bool:
    """Return whether `stream` goes to the journal, by JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _fields_of(record: logging.LogRecord) -> Iterable[tuple[str, str | int | float | bool | None]]:
    """Yield the fields with secrets hidden, then the ids of the current span.

    A line that names its own trace_id does not get the current span's.
    """
    fields: Mapping[str, object] = getattr(record, FIELDS, {})
    for name, value in fields.items():
        if redaction.is_secret(name):
            yield name, redaction.HIDDEN
        elif isinstance(value, float):
            yield name, round(value, 3)
        elif value is None or isinstance(value, bool | int):
            yield name, value
        else:
            yield name, redaction.text(str(value))
    span = spans.current()
    if span is not None and "trace_id" not in fields:
        yield "trace_id", f"{span.context.trace_id:032x}"
        yield "span_id", f"{span.context.span_id:016x}"


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _level_of(record: logging.LogRecord) -> str:
    """Return the name of the highest of our four levels that the record reaches."""
    for name in ("error", "warning", "info"):
        if record.levelno >= getattr(logging, name.upper()):
            return name
    return "debug"


def _quoted(value: object) -> str:
    """Return a field's value: bare if it is a plain word, else as a JSON string."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _escaped(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
