"""Verification: hashes the whole store now, and repairs what is damaged if asked to.

A damaged path is fetched again and atomically replaces the old one in the store; then new links to
it replace the old ones in every environment that has it. Running containers see the repaired files
from then on. Files that they have open or mapped remain the damaged ones until they are restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cri_proxy import errors
from cri_proxy.lib.workers import Pool
from cri_proxy.model import storepaths
from cri_proxy.model.progress import Progress
from cri_proxy.realizer import holding
from cri_proxy.store.disk import integrity, leases
from cri_proxy.store.disk.integrity import Damage, HashProgress, HashRequest
from cri_proxy.store.fetch import closures


@dataclass(slots=True)
class Verified:
    """What was verified and found damaged; `repaired` and `failed` are parts of the findings."""

    paths: int
    bytes: int
    environments: int
    findings: Sequence[Damage]
    repaired: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    repaired_environments: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged any more."""
        return len(self.repaired) == len(self.findings)


async def verify(pool: Pool, on_progress: Callable[[HashProgress], None]) -> Verified:
    """Hash all store paths and compare all environments; quarantine what is damaged."""
    paths = await pool.call(integrity.PATHS, HashRequest(), on_progress=on_progress)
    views = await pool.call(integrity.VIEWS, None)
    found: dict[str, Damage] = {}
    for each in (*paths.damaged, *views.damaged):
        known = found.setdefault(each.path, Damage(each.path, each.why))
        known.environments = sorted({*known.environments, *each.environments})
    return Verified(paths.checked, paths.bytes, views.environments, list(found.values()))


async def repair(root: Path, pool: Pool, verified: Verified) -> None:
    """Fetch damaged paths again, one after the other, and repair the environments."""
    store = closures.Closures(pool)
    async with holding.realization(leases.Realizations(root / "store")):
        try:
            for each in verified.findings:
                try:
                    await store.realize([storepaths.of_basename(each.path)], Progress())
                except errors.CriProxyError as error:
                    verified.failed[each.path] = str(error)
            verified.repaired_environments = await pool.call(integrity.REPAIR, None)
        finally:
            await store.aclose()
    paths = (each.path for each in verified.findings)
    verified.repaired.extend(path for path in paths if path not in verified.failed)
