"""The span provider: where the spans of this process go, by settings and OpenTelemetry's variables.

Installed when traces are sent to a collector, kept on this node, or both. It connects `spans` to a
queue (`spanqueue`), and that to the files (`ring`) and to the exporter (`sender`); `sampling`
decides which traces are sent.
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
from cri_proxy.telemetry.sender import ENDPOINTS, ExporterInit, SpanSender
from cri_proxy.telemetry.spanqueue import CLOSE_SECONDS, SpanQueue

EXPORTER_ARGV: Final = (sys.executable, "-m", "cri_proxy", "span-exporter")
# What OpenTelemetry's exporters, requests and gRPC read from the environment.
_EXPORTER_VARIABLES: Final = (
    *("OTEL_", "NODE_NAME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("GRPC_", "grpc_proxy", "no_grpc_proxy"),
)


def install(
    settings: schema.TracingSettings,
    log: schema.LogSettings,
    *,
    ring: Ring | None = None,
    environment: Mapping[str, str] = os.environ,
) -> SpanQueue:
    """Send the spans of this process to a queue from now on, until `uninstall`."""
    sender = None
    if is_sent(settings, environment):
        init = ExporterInit(settings.endpoint, settings.protocol, log)
        sender = SpanSender(Program(EXPORTER_ARGV, init, _EXPORTER_VARIABLES))
    queue = SpanQueue(ring, sender)
    spans.install(queue.take, sampling.of_settings(settings.share, environment))
    return queue


def uninstall(queue: SpanQueue, seconds: float = CLOSE_SECONDS) -> None:
    """Take no more spans; write and send those in the queue, for at most `seconds` each."""
    spans.install(None)
    queue.close(seconds)


def is_sent(settings: schema.TracingSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether settings or OpenTelemetry's variables name a collector."""
    if settings.pods == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if settings.exporter == "otlp":
        return True
    # The specification's way to switch traces off where an endpoint is set for other signals.
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(variable) for variable in ENDPOINTS)
