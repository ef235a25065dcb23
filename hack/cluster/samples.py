"""The environments that the pods of manifests/ use, on a cluster's own FloxHub.

They are made of this machine's static programs, and so differ from the environments of these names
on FloxHub; they have the commands, files and variables that the pods use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hack.testbed import environments
from hack.testbed.binary_cache import Executable

if TYPE_CHECKING:
    from hack.cluster.cluster import Cluster

TOKEN: Final = "flox_pat_sample"
"""The token for the private environment."""

ENVIRONMENTS: Final = (
    *("acme/web", "acme/tasks", "acme/library", "acme-labs/model"),
    *("flox/redis", "flox/quotes-app"),
)


def push(cluster: Cluster) -> None:
    """Push them all."""
    published, hub = cluster.published, cluster.hub
    tools = published.tools
    for greeting in ("hello", "good day"):
        hub.push("acme", "web", environments.lockfile(tools, variables={"GREETING": greeting}))
    hook = 'export QUEUE="tasks-$REGION"\necho "preparing for $REGION"\n'
    hub.push("acme", "tasks", environments.lockfile(tools, hook=hook))
    library = published.package("library", {"include/library.h": b"#define LIBRARY 1\n"})
    hub.push("acme", "library", environments.lockfile(tools, library))
    for name, program, script in (
        ("redis", "redis-server", "exec nc -ll -p 6379 -e echo +PONG"),
        ("quotes-app", "quotes-app-go", "exec httpd -f -p 3000 -h /tmp"),
    ):
        stand_in = Executable(f"#!{tools.path}/bin/sh\n{script}\n".encode())
        package = environments.package(
            published.publisher, program, {f"bin/{program}": stand_in}, [tools.path]
        )
        hub.push("flox", name, environments.lockfile(tools, package))
    hub.push("acme-labs", "model", environments.lockfile(tools))
    hub.require_token("acme-labs", TOKEN)
