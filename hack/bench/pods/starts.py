"""Start pods with kubelet's calls, and find out when their programs wrote their first line.

The runtime logs the time of every line that a container writes, so that rare polling is exact.
"""

from __future__ import annotations

import datetime
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.testbed import kubelet, waiting
from hack.testbed.pods import Pods

START_SECONDS: Final = 150.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Start:
    """A pod's start, in seconds from RunPodSandbox; `until_output` is to the first line."""

    until_output: float
    output: str


def of_pod(pods: Pods, image: str, command: str, *, environment: str | None = None) -> Start:
    """Run a pod of one container, wait for its first line, and remove it.

    `command` is a shell command; the container keeps running after it, as most pods do.
    """
    annotations = {} if environment is None else {"flox.dev/environment": environment}
    argv = ("sh", "-c", f"{command}; exec sleep 1000")
    begun = time.time()
    pod = pods.run_pod(f"bench-{next(_numbers)}", annotations)
    with pod:
        container = pod.create(kubelet.Spec(image=image, command=argv))
        container.start()
        at, output = waiting.until(
            lambda: _first_line(container.log),
            what="the first line of the program",
            seconds=START_SECONDS,
        )
    return Start(at - begun, output)


def _first_line(log: Path) -> tuple[float, str] | None:
    """Return the time and the text of the first line in a container's log."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    if not lines or not lines[0].endswith("\n"):
        return None
    stamp, _, _, text = lines[0].rstrip("\n").split(" ", 3)
    whole, _, fraction = stamp.partition(".")
    digits = fraction.rstrip("Z").partition("+")[0]
    moment = datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return moment + float(f"0.{digits}"), text
