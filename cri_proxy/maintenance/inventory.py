"""Inventory: the environments in place on this node, by what is on its disk alone."""

from __future__ import annotations

from dataclasses import replace

from cri_proxy import errors
from cri_proxy.floxhub import records
from cri_proxy.model import environments
from cri_proxy.model.environments import Environment
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs

_log = logs.of(__name__)


def environments_of(settings: Settings) -> list[Environment]:
    """Return the environments in place, newest first; log unreadable ones.

    Stale are those that a pod last got from this node's records while FloxHub was unreachable.
    """
    stale = records.stale_locks(settings.store.root / "floxhub")
    found = []
    try:
        places = sorted((settings.store.root / "environments").iterdir())
    except FileNotFoundError:
        return []
    for place in places:
        try:
            each = environments.load(place)
        except errors.ContentDamaged as error:
            _log.warning("environment unreadable", place=place, why=error)
            continue
        if each is not None:
            lock = (each.reference.owner, each.reference.name, each.lock_digest)
            found.append(replace(each, is_stale=lock in stale))
    return sorted(found, key=lambda each: -each.realized_at)
