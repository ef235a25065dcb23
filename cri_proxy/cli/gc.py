"""`cri-proxy gc`: remove what no container, pod or pin holds; `--dry-run` only shows it.

Works with or without a running daemon: the runtime lists what is in use, and locks on disk protect
the environments of containers that are just starting. Files are deleted at low priority, and the
command ends when all of them are gone.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

import uvloop

from cri_proxy import settings
from cri_proxy.cli import arguments, exits, numbers, screen, verbosity
from cri_proxy.maintenance.collection import Freed
from cri_proxy.store.disk.garbage import CollectionPlan, Decision
from cri_proxy.telemetry import logs

_HEAD: Final = ("REFERENCE", "MODE", "LAST STARTED", "FREES", "RESULT", "IDENTITY")
_SHOWN_ROOTS: Final = 2


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Collect garbage, or only plan to, and print the result."""
    wanted = verbosity.settings_of(loaded, "warning")
    logs.setup(wanted.log)
    with screen.spinner("collecting garbage"):  # files are deleted slowly
        plan, freed = uvloop.run(_collected(wanted, is_dry=options.is_dry_run))
    if options.is_json:
        screen.print_json(_record_of(plan, freed))
        return exits.OK
    if plan.decisions:
        rows = [_row_of(each, freed) for each in plan.decisions]
        screen.print_table(_HEAD, rows, numeric={"FREES"}, wrapped={"RESULT"})
    print(_sum_of(plan, freed))
    return exits.OK


async def _collected(
    wanted: settings.Settings, *, is_dry: bool
) -> tuple[CollectionPlan, Freed | None]:
    # These imports take half a second, which a mistyped option should not cost.
    from cri_proxy.cri import channels
    from cri_proxy.cri.runtime import Runtime
    from cri_proxy.daemon import parts
    from cri_proxy.interposer.mutability import Mutability
    from cri_proxy.maintenance import pins
    from cri_proxy.maintenance.collection import Collection
    from cri_proxy.realizer import protocol
    from cri_proxy.store.disk.garbage import Rules

    root = wanted.store.root
    grace = wanted.garbage.grace_seconds
    async with channels.dial(wanted.runtime.endpoint) as channel:
        runtime = Runtime(channel)
        await runtime.version()
        async with parts.keeping_pool_of(wanted) as pool:
            await pool.call(protocol.RECOVER, None)
            collection = Collection(root, runtime, pool, lambda: pins.held(wanted))
            rules = Rules(grace, wanted_bytes=None)
            plan = await collection.plan(rules)
            if is_dry:
                return plan, None
            freed = await collection.collect(rules, unused_seconds=grace)
            await collection.empty()
            await Mutability(root, pool, runtime).sweep()
            return plan, freed


def _row_of(each: Decision, freed: Freed | None) -> tuple[str, ...]:
    return (
        each.reference,
        each.mode,
        numbers.ago(time.time() - each.last_start),
        numbers.size(each.freed_bytes) if each.is_removed else "",
        _outcome_of(each, freed),
        each.identity,
    )


def _outcome_of(each: Decision, freed: Freed | None) -> str:
    """Return what happens to an environment, and why it stays if it does."""
    if each.is_removed:
        if freed is None:
            return "would be removed"
        is_gone = each.identity in {gone.identity for gone in freed.gone}
        return "removed" if is_gone else "stays: it came into use meanwhile"
    shown = ", ".join(each.roots[:_SHOWN_ROOTS])
    more = len(each.roots) - _SHOWN_ROOTS
    return f"stays: {shown}" + (f" and {more} more" if more > 0 else "")


def _sum_of(plan: CollectionPlan, freed: Freed | None) -> str:
    if freed is None:
        return (
            f"{numbers.counted(len(plan.removals), 'environment')} and "
            f"{numbers.counted(plan.paths, 'store path')} would be removed, "
            f"freeing {numbers.size(plan.freed_bytes)}"
        )
    return (
        f"{numbers.counted(len(freed.gone), 'environment')} and "
        f"{numbers.counted(freed.paths, 'store path')} removed, {numbers.size(freed.bytes)} freed"
    )


def _record_of(plan: CollectionPlan, freed: Freed | None) -> dict[str, object]:
    gone = set() if freed is None else {each.identity for each in freed.gone}
    return {
        "dry_run": freed is None,
        "environments": [
            {
                "reference": each.reference,
                "mode": each.mode,
                "identity": each.identity,
                "last_started": datetime.fromtimestamp(each.last_start, UTC).isoformat(
                    timespec="seconds"
                ),
                "bytes": each.freed_bytes,
                "goes": each.is_removed if freed is None else each.identity in gone,
                "holders": list(each.roots),
            }
            for each in plan.decisions
        ],
        "paths": plan.paths if freed is None else freed.paths,
        "bytes": plan.freed_bytes if freed is None else freed.bytes,
    }
