"""110 pods at once on a real node: in a small environment through cri-proxy, or from an image.

    ours      Kubernetes, cri-proxy and containerd; each pod's program comes from its environment
    theirs    the same Kubernetes directly on the same version of containerd; the program, the same
              busybox, comes from a local image

The time is measured from the creation of the pods until the API server reports the last one as
Running. kubelet, scheduler and runtime share this machine's processors with the proxy, so the times
are those of a small node; the proxy's own share is its processor time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from hack.bench import figures, processes
from hack.bench.figures import Figure, Options
from hack.cluster import cluster
from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import Object
from hack.testbed import environments, images

PODS: Final = 110
_QUICK_PODS: Final = 20
_IDLE_SECONDS: Final = 60.0
_START_SECONDS: Final = 1800
_REFERENCE: Final = "bench/small"


def main(argv: Sequence[str]) -> int:
    """Measure both sides."""
    if missing := cluster.lacks():
        raise SystemExit(f"this machine lacks {'; '.join(missing)}: make e2e-kubernetes")
    return figures.main("cluster", argv, _measure)


def _measure(options: Options) -> Iterator[Figure]:
    count = _QUICK_PODS if options.is_quick else PODS
    with Cluster(is_direct=True) as direct:
        theirs = _start(direct, [_pod(number, None) for number in range(count)])
        options.log(f"{count} pods from an image: {theirs:.1f} s")
        runtime_alone = processes.computed_by(direct.runtime.pid)
    with Cluster() as proxied:
        lockfile = environments.lockfile(proxied.published.tools)
        owner, _, name = _REFERENCE.partition("/")
        proxied.hub.push(owner, name, lockfile)
        began = _computed(proxied)
        ours = _start(proxied, [_pod(number, _REFERENCE) for number in range(count)])
        computed = _computed(proxied) - began
        runtime = processes.computed_by(proxied.runtime.pid)
        memory = processes.memory_of(proxied.proxy.pid)
        share = _idle_share(proxied)
    yield Figure(
        name=f"{count} pods at once, to the last one Running",
        unit="s",
        ours=ours,
        theirs=theirs,
        against="the same from a local image",
    )
    yield Figure(
        name=f"the proxy's processor time for {count} pods", unit="s", ours=computed, note="daemon"
    )
    yield Figure(
        name="the runtime's processor time meanwhile",
        unit="s",
        ours=runtime,
        theirs=runtime_alone,
        against="the same from a local image",
    )
    yield Figure(name=f"the proxy's memory with {count} pods", unit="MiB", ours=memory, limit=64)
    yield Figure(
        name=f"the proxy's share of a core with {count} pods at rest",
        unit="%",
        ours=100 * share,
        limit=1,
    )


def _start(running: Cluster, pods: Sequence[Object]) -> float:
    """Create pods; return the seconds until all of them are running."""
    began = time.monotonic()
    running.kubectl.apply(*pods)
    running.kubectl(
        *("wait", "pods", "--all", "--for=jsonpath={.status.phase}=Running"),
        f"--timeout={_START_SECONDS}s",
        seconds=_START_SECONDS,
    )
    return time.monotonic() - began


def _pod(number: int, environment: str | None) -> Object:
    annotations = {} if environment is None else {"flox.dev/environment": environment}
    main = {
        "name": "main",
        "image": images.BUSYBOX if environment is None else images.PLACEHOLDER,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "2147483647"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{number}", "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [main]},
    }


def _computed(running: Cluster) -> float:
    return processes.computed_by(running.proxy.pid)


def _idle_share(running: Cluster) -> float:
    """Return the share of a core that the daemon uses while kubelet only monitors its pods."""
    time.sleep(_IDLE_SECONDS / 4)  # background work after the last start
    began, computed = time.monotonic(), _computed(running)
    time.sleep(_IDLE_SECONDS)
    return (_computed(running) - computed) / (time.monotonic() - began)
