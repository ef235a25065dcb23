"""cri-proxy: imageless Kubernetes on any node.

A daemon between kubelet and the container runtime. docs/architecture.md shows the floors; each
package's docstring lists its modules.

cli          the command line
node         installs and removes cri-proxy on a node
daemon       builds, starts and stops everything
maintenance  garbage collection, prewarming, audits
tracing      traces and metrics of calls
router       forwards HTTP/2 frames between kubelet and the runtime
interposer   intercepts the calls that concern environments
realizer     makes environments from lockfiles
floxhub      resolves references and reads lockfiles
store        store paths: caches, fetching, what is on disk
http         the HTTP client
containerd   containerd's own services
cri          the CRI: messages, methods, the channel to the runtime
model        values that several packages share
settings     settings from file, environment and flags
telemetry    logs, spans and the metrics page
errors       what can go wrong, by what the caller can do
lib          what the standard library lacks

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
