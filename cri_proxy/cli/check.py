"""`cri-proxy check`: check that the daemon will work on this node, and say what to fix if not.

Runs all checks of `checks` concurrently and prints what they found, then the settings that differ
from their defaults and where they come from. Exits with 1 if a check failed; warnings do not count.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

from cri_proxy import settings
from cri_proxy.cli import arguments, exits, numbers, screen
from cri_proxy.cli.checks import disk, endpoints, node, optional, remotes, runner
from cri_proxy.cli.checks.findings import CheckStatus, Finding
from cri_proxy.settings.sources import ValueOrigin

Results = Sequence[tuple[str, Finding]]
"""The names of checks and their findings."""

_MARKS: Final = {CheckStatus.OK: "✔", CheckStatus.WARN: "!", CheckStatus.FAIL: "✘"}
_STYLES: Final = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Run the checks and print what they found."""
    with screen.spinner("checking this node"):  # without a network this takes some seconds
        results = _results(loaded.settings)
    if options.is_json:
        screen.print_json(_record_of(results, loaded.origins))
    elif screen.is_terminal(sys.stdout):
        _draw(results, loaded.origins)
    else:
        _print(results, loaded.origins)
    return exits.FAILED if _has_failed(results) else exits.OK


def _results(wanted: settings.Settings) -> Results:
    checks = [
        *node.checks_of(wanted),
        *endpoints.checks_of(wanted),
        *disk.checks_of(wanted),
        *remotes.checks_of(wanted),
        *optional.checks_of(wanted),
    ]
    results = runner.run(checks)
    clock = remotes.clock(finding.clock_skew for _, finding in results)
    return [*results, ("clock", clock)]


def _draw(results: Results, origins: Sequence[ValueOrigin]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    console = screen.console(sys.stdout)
    names = Column(style="bold", max_width=console.width // 3)
    grid = Table.grid("", names, Column(overflow="fold"), padding=(0, 1))
    for name, finding in results:
        lines = Text(finding.found)
        if finding.advice:
            lines.append(f"\n→ {finding.advice}", style=_STYLES[finding.status])
        grid.add_row(Text(_MARKS[finding.status], _STYLES[finding.status]), name, lines)
    console.print(grid)
    changed = [origin for origin in origins if not origin.is_default]
    if changed:
        value, source = Column(overflow="fold"), Column(style="dim", overflow="fold")
        table = Table.grid("", Column(style="bold"), value, source, padding=(0, 1))
        for origin in changed:
            table.add_row(" ", str(origin.key), origin.shown, origin.source)
        console.print("\nsettings that differ from the default", style="bold")
        console.print(table)
    style = _STYLES[CheckStatus.FAIL] if _has_failed(results) else ""
    console.print(f"\n{_summary_of(results)}", style=style)


def _print(results: Results, origins: Sequence[ValueOrigin]) -> None:
    for name, finding in results:
        print(f"{finding.status:4}  {name}: {finding.found}")
        if finding.advice:
            print(f"      {finding.advice}")
    for origin in origins:
        if not origin.is_default:
            print(f"set   {origin.key} = {origin.shown} ({origin.source})")
    print(_summary_of(results))


def _summary_of(results: Results) -> str:
    count = Counter(finding.status for _, finding in results)
    if failed := count[CheckStatus.FAIL]:
        return f"this node is not ready: {failed} of {len(results)} checks failed"
    if warnings := count[CheckStatus.WARN]:
        return f"this node is ready, {numbers.counted(warnings, 'warning')}"
    return "this node is ready"


def _has_failed(results: Results) -> bool:
    return any(finding.status is CheckStatus.FAIL for _, finding in results)


def _record_of(results: Results, origins: Sequence[ValueOrigin]) -> dict[str, object]:
    return {
        "is_ready": not _has_failed(results),
        "checks": [
            {
                "name": name,
                "status": str(finding.status),
                "found": finding.found,
                "advice": finding.advice,
            }
            for name, finding in results
        ],
        "settings": [
            {"key": str(origin.key), "value": origin.shown, "source": origin.source}
            for origin in origins
        ],
    }
