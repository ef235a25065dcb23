"""Sharing: has the program run that serves other nodes (`share`), as long as the daemon does.

The daemon listens, so that an address which cannot be had is told at once, and hands the socket to
the program, so that one which dies is replaced without refusing anybody. With `peer.listen` empty
there is neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Final

from cri_proxy import errors
from cri_proxy.daemon.initialization import PeerServerInit
from cri_proxy.lib import codec
from cri_proxy.settings.schema import Settings
from cri_proxy.store.protocol import StoreOptions
from cri_proxy.telemetry import logs

ARGV: Final = (sys.executable, "-m", "cri_proxy", "share")
NICE: Final = 10
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
END_SECONDS: Final = 5.0
_BACKLOG: Final = 1024
_log = logs.of(__name__)


@contextlib.asynccontextmanager
async def shared(settings: Settings, store: StoreOptions) -> AsyncIterator[None]:
    """Serve other nodes meanwhile, if the settings say so; `store` is the workers'.

    Raises RequestInvalid when the address cannot be had.
    """
    if not settings.peer.listen:
        yield
        return
    with _listening(settings.peer.listen) as listening:
        told = PeerServerInit(store, settings.log, listening.fileno(), NICE)
        _log.info("peers", listen=settings.peer.listen, names=" ".join(settings.peer.names))
        keeping = asyncio.create_task(_keep(told))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})


def _listening(address: str) -> socket.socket:
    """Return a socket that listens at an address of the settings."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Beside a daemon that is being replaced: for so long each has a part of the turns.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host.strip("[]"), int(port)))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise errors.RequestInvalid(
            f"cannot listen at {address} ({error.strerror or error}): set peer.listen to an "
            "address of this node with a free port"
        ) from error
    return made


async def _keep(told: PeerServerInit) -> None:
    """Have the program run; start it again, after pauses that grow, when it ends."""
    loop = asyncio.get_running_loop()
    pause = 0.0
    while True:
        began = loop.time()
        status = await _run(told)
        pause = pause_after(pause, ran_seconds=loop.time() - began)
        _log.warning("the program that serves other nodes ended", status=status, again_in=pause)
        await asyncio.sleep(pause)


def pause_after(last: float, *, ran_seconds: float) -> float:
    """Return the seconds to wait before the next start; `last` were waited before this one.

    A program that ran for longer than the longest pause begins with the shortest again.
    """
    if not last or ran_seconds > LONGEST_PAUSE_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(2 * last, LONGEST_PAUSE_SECONDS)


async def _run(told: PeerServerInit) -> int:
    """Run the program to its end; have it end when cancelled."""
    program = await asyncio.create_subprocess_exec(
        *ARGV,
        stdin=asyncio.subprocess.PIPE,
        stdout=sys.stderr.fileno(),
        pass_fds=(told.socket,),
        start_new_session=True,
    )
    assert program.stdin is not None
    try:
        program.stdin.write(codec.encode(told) + b"\n")
        return await program.wait()
    finally:
        program.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await program.wait()
        except TimeoutError:
            program.kill()
            await program.wait()
