"""Tracing as the daemon builds it: the span queue, and interceptors with tracing around them.

`span_queue_of` comes before the parts are built, so that their spans are taken, too; `traced` goes
around the interceptors, last. With tracing.pods = "none", or where traces are neither kept nor
sent, there is neither, and calls pay nothing for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer.calls import Interceptor
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs, provider, spans
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.spanqueue import SpanQueue
from cri_proxy.tracing import tracer
from cri_proxy.tracing.startups import Startups
from cri_proxy.tracing.stops import StopTraces

_log = logs.of(__name__)
_TURN_SECONDS: Final = 0.0005
_RUNTIME_POLL_SECONDS: Final = 1.0
_FACTS_SECONDS: Final = 300.0


def traces_below(root: Path) -> Path:
    """Return the directory of a daemon's traces, given its `store.root`."""
    return root / "traces"


@contextlib.asynccontextmanager
async def span_queue_of(settings: Settings) -> AsyncIterator[SpanQueue | None]:
    """Install what keeps and sends traces; yield None if the settings want neither."""
    keep = settings.tracing.keep
    if settings.tracing.pods == "none" or not (keep or provider.is_sent(settings.tracing)):
        yield None
        return
    # The queue's thread and the event loop share the interpreter: shorter turns, shorter waits.
    sys.setswitchinterval(_TURN_SECONDS)
    ring = Ring(traces_below(settings.store.root), keep=keep) if keep else None
    queue = provider.install(settings.tracing, settings.log, ring=ring)
    try:
        yield queue
    finally:
        await asyncio.to_thread(provider.uninstall, queue)


@contextlib.asynccontextmanager
async def traced(
    interceptors: Mapping[str, Interceptor],
    settings: Settings,
    queue: SpanQueue,
    runtime: Runtime,
) -> AsyncIterator[Mapping[str, Interceptor]]:
    """Put tracing around the interceptors, and continue the last daemon's startups."""
    startups = Startups(queue=queue, settle_seconds=settings.tracing.settle_seconds)
    if resumed := startups.resume():
        _log.info("startups go on", count=resumed)
    stops = StopTraces(settings.tracing.settle_seconds)
    options = tracer.TracingOptions(
        pods=settings.tracing.pods,
        listen=settings.serve.listen,
        endpoint=settings.runtime.endpoint,
        is_sending=queue.is_sending,
    )
    asking = asyncio.create_task(_learn(startups.facts, runtime))
    try:
        yield tracer.around(interceptors, startups, stops, options)
    finally:
        asking.cancel()
        stops.close()
        startups.close()


async def _learn(facts: dict[str, spans.Value], runtime: Runtime) -> None:
    """Ask the runtime for its name and version, and again after a while, as it may be upgraded."""
    while True:
        try:
            version = await runtime.version()
        except errors.CriProxyError:
            await asyncio.sleep(_RUNTIME_POLL_SECONDS)
        else:
            facts["container.runtime.name"] = version.runtime_name
            facts["container.runtime.version"] = version.runtime_version
            await asyncio.sleep(_FACTS_SECONDS)
