"""A soak test of the router: mixed calls while the runtime is restarted again and again.

    python -m hack.bench.relay.soak [--calls 1000000] [--seconds 3600] [--restart-every 60]

Calls of all sizes go to the runtime and to the interposer, evenly over the time, on connections
that open and close with the runtime. Required: no wrong answer (UNAVAILABLE is a right one while
the runtime is down), constant memory of the router, and no file descriptor left open after the
clients have disconnected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from hack.bench import relay
from hack.bench.figures import Options

METHODS: Final = ",".join(
    f"/runtime.v1.RuntimeService/{name}"
    for name in ("ListContainers", "Status", "CreateContainer", "ContainerStatus", "RunPodSandbox")
)
IN_FLIGHT: Final = 8
LARGEST_ANSWER: Final = 200_000
GROWTH_MIB: Final = 8.0
"""How much the router may have grown between the first quarter and the end."""


def main() -> int:
    """Run the soak test; return 1 if a requirement was not met."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench.relay.soak")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--restart-every", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cri-proxy-soak-") as name:
        return _soak(
            Path(name),
            arguments.seconds,
            arguments.restart_every,
            pace=IN_FLIGHT * arguments.seconds / arguments.calls,
        )


def _soak(directory: Path, seconds: int, restart_every: int, *, pace: float) -> int:
    program = relay.built(Options(is_quick=False, is_json=False))
    runtime, interposer = directory / "runtime.sock", directory / "interposer.sock"
    router = directory / "router.sock"
    calls = failures = wrong = 0
    memories: list[float] = []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(relay.running(*relay.OURS, "interposer", interposer, runtime))
        relay.wait_for(interposer, first)
        argv = (*relay.OURS, "router", router, runtime, interposer)
        process = stack.enter_context(relay.running(*argv))
        relay.wait_for(router, process)
        descriptors = _descriptors_of(process.pid)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with relay.running(program, "serve", runtime) as serving:
                relay.wait_for(runtime, serving)
                load = subprocess.Popen(
                    [program, "load", router, "-methods", METHODS, "-mixed",
                     f"-in-flight={IN_FLIGHT}", f"-pace={pace:f}s",
                     "-warm-up=0", f"-answer-bytes={LARGEST_ANSWER}",
                     f"-duration={restart_every + 1}s"],
                    stdout=subprocess.PIPE,
                )  # fmt: skip
                time.sleep(min(restart_every, max(1.0, until - time.monotonic())))
            runtime.unlink(missing_ok=True)
            result = json.loads(load.communicate()[0])
            calls += result["calls"]
            failures += result["failures"]
            wrong += result["wrong"]
            memories.append(_memory_of(process.pid))
            print(
                f"{calls} calls, {failures} unavailable, {wrong} wrong, {memories[-1]:.1f} MiB",
                flush=True,
            )
        left = _descriptors_left(process.pid, descriptors)
    growth = memories[-1] - memories[len(memories) // 4]
    print(f"grown by {growth:.1f} MiB, {left} descriptors left")
    return int(bool(wrong or left or growth > GROWTH_MIB))


def _descriptors_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def _descriptors_left(process: int, before: int) -> int:
    """Return how many more descriptors are open than before, after the clients have gone."""
    deadline = time.monotonic() + 30
    while (left := _descriptors_of(process) - before) > 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return max(0, left)


def _memory_of(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = (each for each in status.splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
