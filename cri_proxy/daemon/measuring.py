"""The metrics of a running daemon, and the address that serves them with health and readiness.

    /metrics    for Prometheus
    /healthz    answers while the event loop turns
    /readyz     200 while the runtime answers through us, so that kubelet's calls would succeed

Nothing listens unless `metrics.listen` is set. Facts about the runtime and the disk are looked up
when they are scraped, and not in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cri_proxy import __version__, errors
from cri_proxy.cri.runtime import Runtime
from cri_proxy.lib.endpoint import Endpoint, EndpointResponse
from cri_proxy.lib.meters import Registry
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_RUNTIME_SECONDS: Final = 2.0
_LAG_SECONDS: Final = 0.5


@dataclass(slots=True)
class _State:
    """What is measured here, as of the latest scrape."""

    is_up: bool = False
    lag: float = 0.0


@contextlib.asynccontextmanager
async def measured(settings: Settings, runtime: Runtime, registry: Registry) -> AsyncIterator[bool]:
    """Serve metrics and probes at the address of the settings; yield whether there is one.

    Gauges may be added to `registry` at any time. Raises RequestInvalid when the address is not
    available.
    """
    if not settings.metrics.listen:
        yield False
        return
    # prometheus_client takes tens of milliseconds to import, and is needed nowhere else.
    from cri_proxy.telemetry import exposition

    host, _, port = settings.metrics.listen.rpartition(":")
    state = _State()
    _add_gauges(registry, state, settings.store.root)
    exposed = exposition.Exposition(registry)

    async def metrics() -> EndpointResponse:
        state.is_up = not await _fault_of(runtime)
        text = await asyncio.to_thread(exposed.text)
        state.lag = 0.0
        return EndpointResponse(text, type=exposition.CONTENT_TYPE)

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
        yield True
    finally:
        watching.cancel()
        await endpoint.stop()


def _add_gauges(registry: Registry, state: _State, root: Path) -> None:
    """Add the gauges that have no other owner."""
    registry.gauge("cri_proxy_build", "Always 1.", lambda: {__version__: 1}, label="version")
    registry.gauge(
        "cri_proxy_runtime_up", "Whether the runtime answered at this scrape.", lambda: state.is_up
    )
    registry.gauge(
        "cri_proxy_loop_lag_seconds",
        "The longest that the event loop was late since the last scrape.",
        lambda: state.lag,
    )
    registry.gauge(
        "cri_proxy_store_paths", "Store paths on this node.", lambda: _entries(root / "store")
    )
    registry.gauge(
        "cri_proxy_store_environments",
        "Environments on this node.",
        lambda: _entries(root / "environments"),
    )
    registry.gauge(
        "cri_proxy_disk_free_bytes",
        "Free space on the file system of the store.",
        lambda: shutil.disk_usage(root).free,
    )
    registry.gauge(
        "cri_proxy_disk_size_bytes",
        "Size of the file system of the store.",
        lambda: shutil.disk_usage(root).total,
    )


def _entries(directory: Path) -> int:
    """Return how many entries a directory has; names with a leading dot do not count."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - no need for a path each
    except FileNotFoundError:
        return 0
    return sum(not name.startswith(".") for name in names)


async def _fault_of(runtime: Runtime) -> str:
    """Return why the runtime does not answer; empty if it does."""
    try:
        await runtime.version(within=_RUNTIME_SECONDS)
    except errors.CriProxyError as error:
        return str(error)
    return ""


async def _watch_lag(state: _State) -> None:
    """Wake up at a fixed interval and keep the longest delay."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        state.lag = max(state.lag, loop.time() - due)
