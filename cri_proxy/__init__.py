"""cri-proxy: imageless Kubernetes on any node.

A daemon between kubelet and the container runtime. docs/architecture.md shows the floors; each
package's docstring tells its part of the story.

gRPC's C core reads its settings from the environment when it is first imported, in whichever module
that happens, so they are set here, before any of them.
"""

import os

# Programs are spawned, never forked, so gRPC needs no fork handlers. With them it would log a
# notice for every program that is started while a call is in flight.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# gRPC would log every GOAWAY of a draining peer, in a format of its own.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__version__ = "0.1.0"
