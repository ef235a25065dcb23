"""`cri-proxy serve`: the daemon, in the foreground; systemd or a DaemonSet keeps it running."""

from __future__ import annotations

import uvloop

from cri_proxy import settings
from cri_proxy.cli import arguments, exits
from cri_proxy.daemon import main
from cri_proxy.telemetry import logs


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Run the daemon until it is stopped or replaced."""
    logs.setup(loaded.settings.log)
    uvloop.run(main.serve(loaded.settings, is_replacing=options.is_replacing))
    return exits.OK
