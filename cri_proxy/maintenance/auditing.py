"""Auditing: reads and hashes every store path again, slowly, round after round.

    <root>/audit.json    how far the round is, so that the next daemon resumes it

A round reads the store at audit.megabytes_per_second, some seconds' worth per job, and then
compares the environments with it; the next round begins audit.interval_seconds after its end.
Damaged paths are quarantined at once (`store.disk.integrity`): before the next pod that needs one
starts, the path is fetched again and the environment repaired, or else the pod is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import codec, durable, meters
from cri_proxy.lib.workers import Pool
from cri_proxy.settings.schema import Settings
from cri_proxy.store.disk import integrity
from cri_proxy.store.disk.integrity import Damage, HashRequest
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_SLICE_SECONDS: Final = 30.0
_FIRST_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 60.0

_paths = meters.counter("cri_proxy_audit_paths_total", "Store paths that were audited.")
_size = meters.counter("cri_proxy_audit_size_bytes_total", "Unpacked size of audited store paths.")
_damaged = meters.counter("cri_proxy_audit_damaged_total", "Store paths found damaged by audits.")


@dataclass(frozen=True, slots=True)
class _State:
    """The path after which the round resumes, and when the last round ended."""

    after: str = ""
    ended_at: float = 0.0


class Auditing:
    """The audit of one daemon; `pool` has workers of the lowest priority."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings.audit
        self._root = settings.store.root
        self._pool = pool

    async def run(self) -> None:
        """Audit round after round, for as long as the daemon lives."""
        if not self._settings.megabytes_per_second:
            return
        await asyncio.sleep(min(_FIRST_SECONDS, self._settings.interval_seconds))
        while True:
            state = await asyncio.to_thread(_load, self._root)
            wait = state.ended_at + self._settings.interval_seconds - time.time()
            if not state.after and wait > 0:
                await asyncio.sleep(min(wait, self._settings.interval_seconds))
            try:
                await self._round(state.after)
            except (errors.CriProxyError, OSError) as error:
                _log.warning("audit failed, will retry", why=error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _round(self, after: str) -> None:
        """Audit the store paths after `after`, then the environments."""
        began = time.monotonic()
        checked = found = 0
        place: str | None = after
        while place is not None:
            rate = self._settings.megabytes_per_second * 1_000_000
            request = HashRequest(place, seconds=_SLICE_SECONDS, bytes_per_second=rate)
            result = await self._pool.call(integrity.PATHS, request)
            _paths.add(result.checked)
            _size.add(result.bytes)
            checked += result.checked
            found += self._report(result.damaged)
            place = result.next
            await asyncio.to_thread(_save, self._root, _State(place or ""))
        views = await self._pool.call(integrity.VIEWS, None)
        found += self._report(views.damaged)
        await asyncio.to_thread(_save, self._root, _State("", time.time()))
        _log.info(
            "audit round ended",
            paths=checked,
            environments=views.environments,
            damaged=found,
            seconds=round(time.monotonic() - began),
        )

    def _report(self, findings: Sequence[Damage]) -> int:
        for each in findings:
            _log.error(
                "store path damaged, quarantined",
                path=each.path,
                why=each.why,
                environments=" ".join(each.environments) or "none",
            )
        _damaged.add(len(findings))
        return len(findings)


def _load(root: Path) -> _State:
    try:
        return codec.decode((root / "audit.json").read_bytes(), _State)
    except (OSError, ValueError):
        return _State()


def _save(root: Path, state: _State) -> None:
    durable.write(root / "audit.json", codec.encode(state) + b"\n")


def quarantined(root: Path) -> int:
    """Return how many store paths are in quarantine."""
    records = root / "store" / ".narinfo"
    with contextlib.suppress(FileNotFoundError):
        return sum(each.name.endswith(".damaged") for each in records.iterdir())
    return 0
