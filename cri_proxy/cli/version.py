"""`cri-proxy version`: the versions to put into a bug report."""

from __future__ import annotations

import platform
from importlib import metadata

import cri_proxy
from cri_proxy.cli import arguments, exits, screen


def run(options: arguments.Invocation) -> int:
    """Print the versions."""
    versions = {
        "cri-proxy": cri_proxy.__version__,
        "cri": "runtime.v1",
        "python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "protobuf": metadata.version("protobuf"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if options.is_json:
        screen.print_json(versions)
    else:
        print(screen.columns(versions.items()))
    return exits.OK
