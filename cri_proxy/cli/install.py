"""`cri-proxy install`: between kubelet and the runtime, upgraded in place, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits
from cri_proxy.node import installation
from cri_proxy.node.root import Root

_RUNTIME = "runtime.endpoint"


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Install, or show what would be changed; progress and diff go to standard output."""
    root = root_of(options)
    loaded = loaded_of(root, options, loaded)
    is_set = any(str(each.key) == _RUNTIME and not each.is_default for each in loaded.origins)
    plan = installation.plan_of(root, loaded.settings, is_runtime_set=is_set)
    if options.is_dry_run:
        print(plan.diff(root) or "nothing to do: it is installed like this\n", end="")
        return exits.OK
    installation.install(root, plan, _tell, seconds=options.seconds)
    print("nothing had to be changed" if plan.is_empty else "cri-proxy is on this node")
    return exits.OK


def root_of(options: arguments.Invocation) -> Root:
    """Return the node that is meant; raise NotFound for an image that is not there."""
    directory = Path(options.root).resolve()
    if not directory.is_dir():
        raise errors.NotFound(
            f"there is no directory {directory}: name where the image of a node is unpacked"
        )
    return Root(directory)


def loaded_of(
    root: Root, options: arguments.Invocation, loaded: settings.Loaded
) -> settings.Loaded:
    """Return the settings of that node: an image has a file of its own."""
    if root.is_running or options.config is not None:
        return loaded
    file = root.real(str(settings.CONFIG_FILE))
    return settings.load(
        overrides=options.overrides,
        environment={key: value for key, value in os.environ.items() if key != _VARIABLE},
        file=str(file) if file.exists() else os.devnull,
    )


_VARIABLE = settings.CONFIG_VARIABLE


def _tell(line: str) -> None:
    print(line, flush=True)
