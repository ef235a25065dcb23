"""Containers with a writable /nix: their overlays are created with them and removed after them.

A container with `flox.dev/nix-mutable` gets an overlay of its own (`store.disk.overlays`), whose
token is recorded in the container's annotations. As for environments, the runtime's list of
containers is the only record: `sweep` removes the overlays that no listed container has. It runs
when a container or pod was removed, when one could not be created, at the start, and periodically;
so nothing stays for ever, whatever is killed when.

Race: an overlay exists before its container. Its lock is held until the runtime has answered, and a
sweep first takes the locks, then gets the list: a container that is not listed then never will be.
The lock ends with the process. Remaining risk: a runtime that creates a container after it has
failed the call; such a container is never started.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import adjustment
from cri_proxy.interposer.calls import Call
from cri_proxy.lib.workers import Pool
from cri_proxy.store.disk import overlays
from cri_proxy.store.disk.overlays import OverlayRequest
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_SWEEP_SECONDS: Final = 60.0
_LAST_SWEEP_SECONDS: Final = 5.0


class Mutability:
    """The writable /nix of this node's containers, below the proxy's `root`."""

    def __init__(self, root: Path, pool: Pool, runtime: Runtime) -> None:
        self._overlays = overlays.Overlays(root / "mutable")
        self._pool = pool
        self._runtime = runtime
        self._sweep_wanted = asyncio.Event()

    @contextlib.asynccontextmanager
    async def create(self, view: Path) -> AsyncIterator[adjustment.Writable]:
        """Create a writable /nix over `view`, for the container that is created in the context."""
        token = secrets.token_hex(16)
        lock = self._overlays.hold(token)
        try:
            await self._pool.call(overlays.MAKE, OverlayRequest(token, view))
            place = self._overlays.locate(token)
            yield adjustment.Writable(token, store=place / "store", rest=place / "nix")
        except BaseException:
            self._sweep_wanted.set()
            raise
        finally:
            if lock is not None:
                lock.release()

    async def sweep(self) -> None:
        """Remove the overlays that no container has; raise SourceUnreachable if that is unknown."""
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
                await self._pool.call(overlays.REMOVE, gone)
                _log.debug("writable /nix removed", count=len(gone))

    async def run(self) -> None:
        """Sweep for as long as the daemon lives, and once more at its end if something is left."""
        try:
            while True:
                await self._sweep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SWEEP_SECONDS):
                        await self._sweep_wanted.wait()
        finally:
            if self._sweep_wanted.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_SWEEP_SECONDS):
                        await self._sweep()

    async def _sweep(self) -> None:
        """Sweep; failures are retried the next time."""
        self._sweep_wanted.clear()
        try:
            await self.sweep()
        except (errors.CriProxyError, OSError) as error:
            _log.info("writable /nix of removed containers not deleted yet", why=error)
        except asyncio.CancelledError:
            self._sweep_wanted.set()
            raise

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the removal of a container or pod unchanged; sweep when it has succeeded."""
        response = await call.forward(payload)
        self._sweep_wanted.set()
        return response
