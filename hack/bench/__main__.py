"""Run benchmarks: `python -m hack.bench [NAME]... [--quick] [--json] [--python=PATH]`, as root.

NAME is store, peers, pods, relay, tracing or cluster.

Without a name all run but `cluster`, which needs Kubernetes to be built first. With --json each
prints one document on a line of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

USUAL: Final = ("store", "peers", "pods", "relay", "tracing")
NAMES: Final = (*USUAL, "cluster")


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks that are named, with the other arguments handed on; return the status."""
    named = [each for each in argv if not each.startswith("-")]
    rest = [each for each in argv if each.startswith("-")]
    if unknown := [each for each in named if each not in NAMES]:
        print(f"no benchmark {' '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    return max(_run(each, rest) for each in named or USUAL)


def _run(name: str, argv: Sequence[str]) -> int:
    """Run one benchmark; its package is imported only now, for each needs other things."""
    status: int = importlib.import_module(f"hack.bench.{name}").main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
