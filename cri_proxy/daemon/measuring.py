"""What is measured of a daemon at work, and the address where others read it.

    /metrics    for Prometheus
    /healthz    the daemon's loop turns: whoever gets an answer has one
    /readyz     the runtime answers through us, so kubelet's calls would succeed

Everything is off unless `metrics.listen` is set. What must be asked for (the runtime, the disk) is
asked at a scrape and not in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cri_proxy import __version__, errors
from cri_proxy.cri.runtime import Runtime
from cri_proxy.lib.endpoint import Endpoint, EndpointResponse
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs, meters
from cri_proxy.telemetry.meters import Measured, Tally

_log = logs.of(__name__)
_RUNTIME_SECONDS: Final = 2.0
_LAG_SECONDS: Final = 0.5
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class _State:
    """What a scrape tells that nobody else knows."""

    root: Path
    tally: Tally = field(default_factory=Tally)
    is_up: bool = False
    lag: float = 0.0


@contextlib.asynccontextmanager
async def measured(settings: Settings, runtime: Runtime) -> AsyncIterator[Tally | None]:
    """Answer at the address of the settings, with what calls are counted in; None without one.

    Raises RequestInvalid when the address cannot be had.
    """
    if not settings.metrics.listen:
        yield None
        return
    host, _, port = settings.metrics.listen.rpartition(":")
    state = _State(settings.store.root)
    exposition = meters.install()
    _observe(state)

    async def metrics() -> EndpointResponse:
        state.is_up = not await _fault_of(runtime)
        text = await asyncio.to_thread(exposition)
        state.lag = 0.0
        return EndpointResponse(text, type=_EXPOSITION)

    async def health() -> EndpointResponse:
        return EndpointResponse(b"ok\n")

    async def readiness() -> EndpointResponse:
        fault = await _fault_of(runtime)
        if fault:
            return EndpointResponse(f"{fault}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)
        return EndpointResponse(b"ok\n")

    endpoint = Endpoint({"/metrics": metrics, "/healthz": health, "/readyz": readiness})
    try:
        chosen = await endpoint.start(host.strip("[]"), int(port))
    except OSError as error:
        raise errors.RequestInvalid(
            f"cannot listen at {settings.metrics.listen} ({error.strerror or error}): set "
            "metrics.listen to an address of this node with a free port"
        ) from error
    _log.info("metrics", listen=f"{host}:{chosen}")
    watching = asyncio.create_task(_watch_lag(state))
    try:
        yield state.tally
    finally:
        watching.cancel()
        await endpoint.stop()


def _observe(state: _State) -> None:
    """Make the instruments that are read at a scrape."""
    meters.observed_counter(
        "cri_proxy.calls", "{call}", "calls of kubelet's by method and status", state.tally.measured
    )
    meters.gauge(
        "cri_proxy.runtime.up", "1", "whether the runtime answers", lambda: [(state.is_up, {})]
    )
    meters.gauge(
        "cri_proxy.loop.lag",
        "s",
        "the longest that the event loop was late since the last scrape",
        lambda: [(state.lag, {})],
    )
    meters.gauge(
        "cri_proxy.store.paths",
        "{path}",
        "store paths on this node",
        lambda: _entries(state.root / "store"),
    )
    meters.gauge(
        "cri_proxy.store.environments",
        "{environment}",
        "environments on this node",
        lambda: _entries(state.root / "environments"),
    )
    meters.gauge(
        "cri_proxy.disk.free",
        "By",
        "room on the file system of the store",
        lambda: [(float(shutil.disk_usage(state.root).free), {})],
    )
    meters.gauge(
        "cri_proxy.disk.size",
        "By",
        "size of the file system of the store",
        lambda: [(float(shutil.disk_usage(state.root).total), {})],
    )
    meters.gauge("cri_proxy.build", "1", "always 1", lambda: [(1, {"version": __version__})])


def _entries(directory: Path) -> Measured:
    """Measure how many things are in a directory; those that begin with a dot are not meant."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - no need for a path each
    except FileNotFoundError:
        return [(0, {})]
    return [(sum(not name.startswith(".") for name in names), {})]


async def _fault_of(runtime: Runtime) -> str:
    """Return why the runtime does not answer; empty if it does."""
    try:
        await runtime.version(within=_RUNTIME_SECONDS)
    except errors.CriProxyError as error:
        return str(error)
    return ""


async def _watch_lag(state: _State) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        state.lag = max(state.lag, loop.time() - due)
