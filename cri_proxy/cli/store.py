"""`cri-proxy store verify`: hash every store path again; `--repair` refetches damaged ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvloop

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits, numbers, screen, verbosity
from cri_proxy.telemetry import logs

if TYPE_CHECKING:
    from cri_proxy.maintenance.verification import Verified
    from cri_proxy.store.disk.integrity import HashProgress


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Verify, repair if asked to, and print the result; FAILED while anything is damaged."""
    wanted = verbosity.settings_of(loaded, "error")
    logs.setup(wanted.log)
    if not wanted.store.root.is_dir():  # it would be created, and an empty store is undamaged
        raise errors.NotFound(
            f"there is no store at {wanted.store.root}, so nothing was verified: "
            "set store.root to the right directory, or realize an environment first"
        )
    with _progress() as on_progress:
        verified = uvloop.run(_verified(wanted, on_progress, does_repair=options.does_repair))
    if options.is_json:
        screen.print_json(_record_of(verified))
    else:
        _print(verified, was_repaired=options.does_repair)
    return exits.OK if verified.is_whole else exits.FAILED


async def _verified(
    wanted: settings.Settings,
    on_progress: Callable[[HashProgress], None],
    *,
    does_repair: bool,
) -> Verified:
    # These imports take half a second, which a mistyped option should not cost.
    from cri_proxy.daemon import parts
    from cri_proxy.maintenance import verification

    async with parts.parts_of(wanted) as built:
        verified = await verification.verify(built.pool, on_progress)
        if does_repair and verified.findings:
            await verification.repair(wanted.store.root, built.pool, verified)
        return verified


def _print(verified: Verified, *, was_repaired: bool) -> None:
    """Print a line for each damaged path, and a summary."""
    for each in verified.findings:
        if each.path in verified.repaired:
            outcome = "repaired"
        elif each.path in verified.failed:
            outcome = f"not repaired: {verified.failed[each.path]}"
        else:
            outcome = "quarantined"
        print(f"{each.path}: {each.why}; {outcome}")
        for identity in each.environments:
            print(f"    in {identity}")
    print(
        f"{numbers.counted(verified.paths, 'store path')}, {numbers.size(verified.bytes)}, and "
        f"{numbers.counted(verified.environments, 'environment')} verified: "
        f"{len(verified.findings) or 'none'} damaged"
        + (f", {len(verified.repaired)} repaired" if verified.repaired else "")
    )
    if verified.repaired_environments:
        print(
            "containers in repaired environments keep using the damaged files that they have open: "
            "restart them"
        )
    elif verified.findings and not was_repaired:
        print("to fetch damaged paths again, run cri-proxy store verify --repair")


def _record_of(verified: Verified) -> dict[str, object]:
    return {
        "paths": verified.paths,
        "bytes": verified.bytes,
        "environments": verified.environments,
        "damaged": [
            {
                "path": each.path,
                "why": each.why,
                "environments": each.environments,
                "repaired": each.path in verified.repaired,
                "error": verified.failed.get(each.path),
            }
            for each in verified.findings
        ],
        "repaired_environments": verified.repaired_environments,
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[HashProgress], None]]:
    """Yield a callback for progress reports, which draws a bar at a terminal."""
    if not screen.is_terminal(sys.stderr):
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("verifying"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=screen.console(sys.stderr), transient=True) as bar:
        task = bar.add_task("verifying", total=None, text="")

        def show(report: HashProgress) -> None:
            bar.update(
                task,
                total=report.of,
                completed=report.checked,
                text=f"{report.checked}/{report.of} paths, {numbers.size(report.bytes)}",
            )

        yield show
