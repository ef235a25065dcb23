"""The provider: what becomes of spans, installed when traces are sent, kept, or both.

Decides by settings and OpenTelemetry's variables which traces are sent (`sampling`), and puts
together who takes them: the ring, the sender, and the outlet before them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from cri_proxy.lib.child import Program
from cri_proxy.settings import schema
from cri_proxy.telemetry import sampling, spans
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.sender import ExporterInit, SpanSender
from cri_proxy.telemetry.spanqueue import CLOSE_SECONDS, SpanQueue

EXPORTER_ARGV: Final = (sys.executable, "-m", "cri_proxy", "span-exporter")
# What OpenTelemetry's exporters, requests and gRPC read from the environment.
_EXPORTER_VARIABLES: Final = (
    *("OTEL_", "NODE_NAME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("GRPC_", "grpc_proxy", "no_grpc_proxy"),
)
_ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


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
        init = ExporterInit(settings.endpoint, settings.protocol, log)
        sender = SpanSender(Program(EXPORTER_ARGV, init, _EXPORTER_VARIABLES))
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
    return any(environment.get(variable) for variable in _ENDPOINT_VARIABLES)
