"""`cri-proxy serve`: the daemon, in the foreground; systemd or a DaemonSet keeps it running."""

from __future__ import annotations

import uvloop

from cri_proxy import settings
from cri_proxy.cli import arguments, exits
from cri_proxy.daemon import main
from cri_proxy.telemetry import logs, spans


def run(_: arguments.Options, loaded: settings.Loaded) -> int:
    """Run the daemon until it is told to stop."""
    logs.setup(loaded.settings.log)
    send_spans = spans.setup(loaded.settings.tracing)
    try:
        uvloop.run(main.serve(loaded.settings))
    finally:
        send_spans()
    return exits.OK
