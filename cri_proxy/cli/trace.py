"""`cri-proxy trace`: show the latest pod startups on this node, and what each waited for.

Reads the traces that the daemon keeps on disk; the daemon need not be running.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits, numbers, screen, verbosity
from cri_proxy.cli.waterfall import html, rows, terminal
from cri_proxy.daemon import observing
from cri_proxy.model import traces
from cri_proxy.model.traces import StoredTrace
from cri_proxy.telemetry import logs, ring


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Print the selected startups, the latest first."""
    wanted = verbosity.settings_of(loaded, "warning")
    logs.setup(wanted.log)
    directory = observing.traces_below(wanted.store.root)
    kept = ring.load(directory)
    found = [trace for trace in kept if options.pod is None or _is_of(trace, options.pod)]
    none_kept = (
        f"no startup is recorded in {directory} yet: start a pod, and check that tracing.keep is "
        "not 0"
    )
    if options.pod is not None and not found:
        if not kept:
            raise errors.NotFound(none_kept)
        raise errors.NotFound(
            f"none of the {numbers.counted(len(kept), 'startup')} recorded in {directory} matches "
            f"{options.pod}: give a pod's name, namespace/name or uid, or a trace id"
        )
    found = found[: options.count]
    if options.html is not None:
        Path(options.html).write_text(html.of_traces(found), encoding="utf-8")
        written = numbers.counted(len(found), "startup")
        print(f"{written} written to {options.html}", file=sys.stderr)
    if options.is_json:
        screen.print_json([_record_of(trace) for trace in found])
    elif options.html is None:
        if not found:
            print(none_kept, file=sys.stderr)
        terminal.show(found)
    return exits.OK


def _is_of(trace: StoredTrace, pod: str) -> bool:
    """Return whether `pod` is the name, namespace/name or uid of the trace's pod, or its id."""
    startup = trace.startup
    return pod in (startup.name, startup.pod, startup.uid, startup.trace_id)


def _record_of(trace: StoredTrace) -> dict[str, object]:
    return {
        **traces.record_of(trace.startup),
        "seconds": trace.seconds,
        "is_over": trace.root is not None,
        "failure": rows.failure_of(trace),
        "spans": [
            {**traces.record_of(row.span), "is_critical": row.is_critical}
            for row in rows.of_trace(trace)
        ],
    }
