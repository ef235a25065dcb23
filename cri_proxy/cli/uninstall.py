"""`cri-proxy uninstall`: point kubelet back to the runtime and restore every changed file."""

from __future__ import annotations

from cri_proxy import settings
from cri_proxy.cli import arguments, exits, install
from cri_proxy.node import installation


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Uninstall; progress goes to standard output."""
    root = install.root_of(options)
    loaded = install.loaded_of(root, options, loaded)
    if options.is_purging:
        installation.refuse_in_use(root, loaded.settings)
    installation.uninstall(
        root, str(loaded.settings.serve.listen), install.report, seconds=options.seconds
    )
    if options.is_purging:
        installation.purge(root, loaded.settings)
        print(f"removed {loaded.settings.store.root}")
    return exits.OK
