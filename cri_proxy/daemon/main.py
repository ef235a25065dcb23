"""The daemon's life, from settings to the last call in flight.

It builds the parts, starts what kubelet talks to (`fronts`), reports readiness to systemd once the
runtime has answered, and waits for a signal. The first SIGTERM or SIGINT drains: new calls are
refused, and those in flight continue for at most `serve.drain_seconds`. A second signal stops at
once. Another daemon that takes the socket over has the effect of a first signal.

The runtime need not be running when the daemon starts: calls fail until it is, exactly as they
would without a proxy.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from cri_proxy import __version__, errors
from cri_proxy.containerd import images as containerd_images
from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.daemon import background, fronts, measuring, observing, parts, peering
from cri_proxy.interposer import (
    generations,
    handlers,
    imageconfigs,
    lifecycle,
    pulls,
    restoration,
)
from cri_proxy.interposer.calls import Interceptor
from cri_proxy.interposer.mutability import Mutability
from cri_proxy.interposer.relay import Relay
from cri_proxy.lib import notify, scheduling
from cri_proxy.lib.meters import Registry
from cri_proxy.realizer.realizer import Realizer
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs
from cri_proxy.tracing import metering
from cri_proxy.tracing.metering import MeteredRelay

_log = logs.of(__name__)
_RUNTIME_POLL_SECONDS: Final = 1.0
_PLACE_POLL_SECONDS: Final = 0.5


async def serve(settings: Settings, *, is_replacing: bool = False) -> None:
    """Serve until a signal arrives, or until another daemon takes the socket over.

    Raises a CriProxyError when it cannot start, for instance because another daemon has the socket
    and `is_replacing` is not set.
    """
    stopping = asyncio.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(observing.span_queue_of(settings))
        built = await stack.enter_async_context(parts.parts_of(settings))
        await stack.enter_async_context(
            peering.serving(settings, parts.store_options_of(settings, 1))
        )
        channel = channels.dial(settings.runtime.endpoint)
        stack.push_async_callback(channel.close, None)
        runtime = Runtime(channel)
        mutability = Mutability(settings.store.root, built.pool, runtime)
        imports = containerd_images.Images(channel)
        interceptors = interceptors_of(settings, built.realizer, runtime, mutability, imports)
        if queue is not None:
            interceptors = await stack.enter_async_context(
                observing.traced(interceptors, settings, queue, runtime)
            )
        registry = Registry()
        is_metered = await stack.enter_async_context(
            measuring.measured(settings, runtime, registry)
        )
        front = fronts.front_of(
            settings,
            (MeteredRelay if is_metered else Relay)(channel, interceptors),
            interceptors,
            registry,
            count=metering.count if is_metered else None,
            is_replacing=is_replacing,
        )
        await front.start()
        _reduce_latency()
        _log.info(
            "serving",
            version=__version__,
            listen=settings.serve.listen,
            front=settings.serve.front,
            runtime=settings.runtime.endpoint,
            store=settings.store.root,
        )
        unmounting = asyncio.create_task(mutability.run())
        await stack.enter_async_context(background.of_node(settings, runtime, built.pool, registry))
        announcing = asyncio.create_task(_announce(runtime))
        watchdog = asyncio.create_task(notify.keep_alive())
        watching = asyncio.create_task(_watch(front, stopping))
        await stopping.wait()
        watching.cancel()
        announcing.cancel()
        notify.systemd("STOPPING=1")
        stopping.clear()
        await _drain(front, settings.serve.drain_seconds, stopping)
        unmounting.cancel()
        watchdog.cancel()
        await asyncio.wait({unmounting, watchdog})
    _log.info("stopped")


def interceptors_of(
    settings: Settings,
    realizer: Realizer,
    runtime: Runtime,
    mutability: Mutability,
    imports: containerd_images.Images,
) -> Mapping[str, Interceptor]:
    """Return the interceptors of all methods that have one, by method path."""
    known = handlers.Handlers(settings.runtime.handlers)
    policy = lifecycle.Policy(
        handlers=known,
        margin_seconds=settings.pods.deadline_margin_seconds,
        kubelet_root=settings.pods.kubelet_root,
        token_file=settings.floxhub.token_file,
    )
    annotations = lifecycle.Annotations(runtime)
    images = settings.pods.placeholder_images
    found: dict[str, Interceptor] = {
        "RunPodSandbox": lifecycle.RunPodSandbox(realizer, policy),
        "CreateContainer": lifecycle.CreateContainer(
            realizer,
            imageconfigs.ImageConfigs(runtime),
            generations.KeptGenerations(runtime.containers),
            mutability,
            policy,
        ),
        "RemoveContainer": mutability,
        "RemovePodSandbox": mutability,
        "Exec": lifecycle.Exec(api_pb2.ExecRequest, annotations),
        "ExecSync": lifecycle.Exec(api_pb2.ExecSyncRequest, annotations),
        "RestorePod": restoration.RestorePod(known),
        **handlers.interceptors_of(known),
    }
    if images or known:
        found["PullImage"] = pulls.PullImage(images, runtime, imports, known)
    return {methods.path_of(name): interceptor for name, interceptor in found.items()}


async def _announce(runtime: Runtime) -> None:
    """Report readiness to systemd as soon as the runtime has answered."""
    version = None
    while version is None:
        try:
            version = await runtime.version()
        except errors.CriProxyError as error:
            _log.debug("runtime does not answer yet", why=error)
            await asyncio.sleep(_RUNTIME_POLL_SECONDS)
    _log.info("runtime answered", name=version.runtime_name, version=version.runtime_version)
    notify.systemd("READY=1")


def _reduce_latency() -> None:
    """Exempt all objects made so far from Python's garbage collection, and ask for short slices.

    A full collection over everything that is imported would block calls for 20 ms or more.
    """
    gc.collect()
    gc.freeze()
    scheduling.ask_for_slices(scheduling.SHORT_MICROSECONDS)


async def _watch(front: fronts.Front, stopping: asyncio.Event) -> None:
    """Set `stopping` when another process has taken the socket over."""
    while True:
        await asyncio.sleep(_PLACE_POLL_SECONDS)
        if front.is_replaced():
            break
    _log.info("replaced", why="another process has taken the socket over")
    stopping.set()


async def _drain(front: fronts.Front, seconds: float, at_once: asyncio.Event) -> None:
    """Wait for calls in flight, for `seconds` or until the next signal."""
    _log.info("draining", seconds=seconds)
    draining = asyncio.create_task(front.drain(seconds))
    hurrying = asyncio.create_task(at_once.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not draining.done():
        _log.warning("stopping at once", why="a second signal came")
        await front.stop()
    await draining
