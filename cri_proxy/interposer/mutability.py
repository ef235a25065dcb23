"""Mutability: containers that may write to /nix, and an end to what they wrote.

A container with `flox.dev/nix-mutable` gets an overlay of its own (`store.overlays`), whose token
is noted in the container's annotations. As with environments there is no ledger beside the
runtime's own list of containers: `sweep` removes the overlays that no container in it notes. It
runs when a container or pod was removed, when one could not be created, at the start, and now and
then; so whatever is killed in between, nothing stays for ever.

Race: an overlay exists before its container does. Its lock is held until the runtime has answered,
and a sweep first takes the locks, then asks for the list: whoever is not in it by then never will
be. The lock dies with the process. What remains: a runtime that creates a container after having
refused it to us; such a container is never started.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Final, Protocol

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.interposer.calls import Call
from cri_proxy.lib.workers import Pool
from cri_proxy.store.disk import overlays
from cri_proxy.store.disk.overlays import OverlayRequest
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_SWEEP_SECONDS: Final = 60.0
_LAST_SWEEP_SECONDS: Final = 5.0


class Containers(Protocol):
    """Who lists containers: `cri.runtime.Runtime`."""

    def containers(self) -> Awaitable[Sequence[api_pb2.Container]]:
        """Return all containers of all pods, those that have exited too."""
        ...


class Mutability:
    """The writable /nix of this node's containers, below the proxy's `root`."""

    def __init__(self, root: Path, jobs: Pool, runtime: Containers) -> None:
        self._overlays = overlays.Overlays(root / "mutable")
        self._jobs = jobs
        self._runtime = runtime
        self._poked = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lend(self, view: Path) -> AsyncIterator[adjustment.Writable]:
        """Make a writable /nix over `view`, for the container that is created inside.

        Whether it is kept is up to the runtime: once a container with it is listed, it is.
        """
        token = secrets.token_hex(16)
        lock = self._overlays.hold(token)
        try:
            await self._jobs.call(overlays.MAKE, OverlayRequest(token, view))
            place = self._overlays.locate(token)
            yield adjustment.Writable(token, store=place / "store", rest=place / "nix")
        except BaseException:
            self._poked.set()
            raise
        finally:
            if lock is not None:
                lock.release()

    async def sweep(self) -> None:
        """Remove the overlays that no container has.

        Raises SourceUnreachable, and removes nothing, when the runtime cannot be asked.
        """
        with contextlib.ExitStack() as held:
            free = set()
            for token in self._overlays.tokens():
                lock = self._overlays.hold(token)
                if lock is not None:
                    held.callback(lock.release)
                    free.add(token)
            if not free:
                return
            containers = await self._runtime.containers()
            used = {each.annotations.get(adjustment.MUTABLE_ANNOTATION) for each in containers}
            gone = sorted(free - used)
            if gone:
                await self._jobs.call(overlays.REMOVE, gone)
                _log.debug("writable /nix removed", count=len(gone))

    async def keep(self) -> None:
        """Sweep for as long as the daemon lives, and when it ends, if there is something left."""
        try:
            while True:
                await self._sweep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SWEEP_SECONDS):
                        await self._poked.wait()
        finally:
            if self._poked.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_SWEEP_SECONDS):
                        await self._sweep()

    async def _sweep(self) -> None:
        """Sweep; what fails is tried again the next time."""
        self._poked.clear()
        try:
            await self.sweep()
        except (errors.CriProxyError, OSError) as error:
            _log.info("writable /nix of removed containers stays for now", why=error)
        except asyncio.CancelledError:
            self._poked.set()
            raise

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the removal of a container or pod as it came; sweep when it has succeeded."""
        answer = await call.forward(payload)
        self._poked.set()
        return answer
