"""`cri-proxy environments`: list the environments that are realized on this node."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from cri_proxy import settings
from cri_proxy.cli import arguments, exits, numbers, screen, verbosity
from cri_proxy.maintenance import inventory, pins
from cri_proxy.maintenance.pins import Pin
from cri_proxy.model.environments import Environment
from cri_proxy.telemetry import logs

_HEAD: Final = ("REFERENCE", "MODE", "PATHS", "SIZE", "REALIZED", "FLOXHUB", "PIN", "IDENTITY")


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Print the environments, the latest first."""
    wanted = verbosity.settings_of(loaded, "warning")
    logs.setup(wanted.log)
    found = inventory.environments_of(wanted)
    known = pins.load(wanted.store.root)
    pinned = {
        identity: str(reference)
        for reference, identity in pins.held(wanted).items()
        if identity is not None
    }
    if options.is_json:
        screen.print_json([_record_of(each, pinned) for each in found])
        return exits.OK
    if not found:
        print(
            f"there are no environments in {wanted.store.root} yet: "
            "run cri-proxy realize owner/name, or start a pod that uses one",
            file=sys.stderr,
        )
    else:
        rows = [_row_of(each, pinned) for each in found]
        screen.print_table(_HEAD, rows, numeric={"PATHS", "SIZE"})
        if screen.is_terminal(sys.stdout):
            total = numbers.size(sum(each.nar_bytes for each in found))
            print(
                f"{numbers.counted(len(found), 'environment')}, {total} "
                "(shared store paths counted each time)"
            )
    for reference in pins.held(wanted):
        pin = known.get(reference, Pin())
        if pin.failure:
            print(f"pin {reference} failed: {pin.failure}", file=sys.stderr)
        elif pin.identity is None:
            print(f"pin {reference} is not realized yet", file=sys.stderr)
    return exits.OK


def _row_of(each: Environment, pinned: Mapping[str, str]) -> tuple[str, ...]:
    return (
        str(each.reference),
        str(each.mode),
        str(len(each.closure)),
        numbers.size(each.nar_bytes),
        numbers.ago(time.time() - each.realized_at),
        "stale" if each.is_stale else "confirmed",
        pinned.get(each.identity, ""),
        each.identity,
    )


def _record_of(each: Environment, pinned: Mapping[str, str]) -> dict[str, object]:
    return {
        "reference": str(each.reference),
        "generation": each.reference.generation,
        "mode": str(each.mode),
        "identity": each.identity,
        "directory": str(each.store.parent),
        "flox_env": str(each.flox_env),
        "lock_digest": each.lock_digest,
        "is_stale": each.is_stale,
        "pin": pinned.get(each.identity),
        "paths": len(each.closure),
        "bytes": each.nar_bytes,
        "realized_at": datetime.fromtimestamp(each.realized_at, UTC).isoformat(timespec="seconds"),
    }
