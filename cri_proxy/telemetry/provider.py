"""The provider: what becomes of spans, installed when traces are sent, kept, or both.

Decides by settings and OpenTelemetry's variables which traces are sent (`sampling`), and puts
together who takes them: the ring, the sender, and the outlet before them.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Final

from cri_proxy.settings import schema
from cri_proxy.telemetry import sampling, spans
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.sender import SpanSender
from cri_proxy.telemetry.spanqueue import CLOSE_SECONDS, SpanQueue

SENDER_ARGV: Final = (sys.executable, "-m", "cri_proxy", "sender")
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def install(
    settings: schema.TracingSettings,
    log: schema.LogSettings,
    *,
    ring: Ring | None = None,
    environment: Mapping[str, str] = os.environ,
) -> SpanQueue:
    """Install what takes this process's spans; `uninstall` it."""
    sender = None
    if is_sent(settings, environment):
        sender = SpanSender(
            SENDER_ARGV,
            {
                "endpoint": settings.endpoint,
                "protocol": settings.protocol,
                "log": dataclasses.asdict(log),
            },
        )
    outlet = SpanQueue(ring, sender)
    spans.install(outlet.take, sampling.of_settings(settings.share, environment))
    return outlet


def uninstall(outlet: SpanQueue, seconds: float = CLOSE_SECONDS) -> None:
    """Take no more spans; write and send the rest, as far as that goes within `seconds`."""
    spans.install(None)
    outlet.close(seconds)


def is_sent(settings: schema.TracingSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether settings or OpenTelemetry's variables name a collector."""
    if settings.pods == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if settings.exporter == "otlp":
        return True
    # The specification's own way to say no although an endpoint is set for other signals.
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(variable) for variable in _VARIABLES)
