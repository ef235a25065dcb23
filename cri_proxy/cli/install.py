"""`cri-proxy install`: put the proxy between kubelet and the runtime, or upgrade it in place."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits
from cri_proxy.node import installation
from cri_proxy.node.root import Root

report = functools.partial(print, flush=True)
"""Prints a line of progress at once, also into a pipe."""


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Install, or print what would be changed; progress goes to standard output."""
    root = root_of(options)
    loaded = loaded_of(root, options, loaded)
    is_set = any(
        str(each.key) == "runtime.endpoint" and not each.is_default for each in loaded.origins
    )
    plan = installation.plan_of(root, loaded.settings, is_runtime_set=is_set)
    if options.is_dry_run:
        print(
            plan.diff(root) or "nothing to do: this version and configuration are installed\n",
            end="",
        )
        return exits.OK
    installation.install(root, plan, report, seconds=options.seconds)
    print("nothing had to be changed" if plan.is_empty else "cri-proxy is installed on this node")
    return exits.OK


def root_of(options: arguments.Invocation) -> Root:
    """Return the file system that --root names; raise NotFound if it does not exist."""
    directory = Path(options.root).resolve()
    if not directory.is_dir():
        raise errors.NotFound(
            f"there is no directory {directory}: set --root to the unpacked image of a node"
        )
    return Root(directory)


def loaded_of(
    root: Root, options: arguments.Invocation, loaded: settings.Loaded
) -> settings.Loaded:
    """Return the settings of that node: an image has its own settings file."""
    if root.is_running or options.config is not None:
        return loaded
    file = root.real(str(settings.CONFIG_FILE))
    return settings.load(
        overrides=options.overrides,
        environment={
            key: value for key, value in os.environ.items() if key != settings.CONFIG_VARIABLE
        },
        file=str(file) if file.exists() else os.devnull,
    )
