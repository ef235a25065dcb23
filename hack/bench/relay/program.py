"""Our sides of the relay benchmark: the router, or the interposer alone, as a separate process.

python -m hack.bench.relay.program router SOCKET RUNTIME INTERPOSER
python -m hack.bench.relay.program interposer SOCKET RUNTIME
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path

import uvloop

from cri_proxy.cri import channels, methods
from cri_proxy.interposer import server
from cri_proxy.interposer.relay import Relay
from cri_proxy.lib import scheduling, sockets
from cri_proxy.router.server import Router

INTERPOSED = frozenset(
    methods.path_of(name)
    for name in ("RunPodSandbox", "CreateContainer", "Exec", "ExecSync", "RestorePod", "PullImage")
)


async def _router(place: Path, runtime: Path, interposer: Path) -> None:
    with sockets.listening(place, sockets.access_of(runtime)) as (listener, taken):
        router = Router([listener], upstream=runtime, interposer=interposer, interposed=INTERPOSED)
    await router.start()
    gc.freeze()  # this and the time slices are the daemon's
    scheduling.ask_for_slices(scheduling.SHORT_MICROSECONDS)
    await _told_to_stop()
    await router.close()
    taken.withdraw()


async def _interposer(place: Path, runtime: Path) -> None:
    async with channels.dial(runtime) as channel:
        access = sockets.access_of(runtime)
        serving = server.Server(Relay(channel), place, access)
        await serving.start()
        await _told_to_stop()
        await serving.stop()


async def _told_to_stop() -> None:
    stopped = asyncio.Event()
    for each in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    await stopped.wait()


def main() -> None:
    """Run the named side."""
    which, *paths = sys.argv[1:]
    places = [Path(each) for each in paths]
    uvloop.run(_router(*places) if which == "router" else _interposer(*places))


if __name__ == "__main__":
    main()
