"""Run benchmarks: `python -m hack.bench [NAME]... [--quick] [--json] [--python=PATH]`, as root.

NAME is store, peers, pods, relay, tracing or cluster.

Without a name, all of them run except `cluster`, which needs Kubernetes to be built first. With
--json, each prints one document on a line of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

USUAL: Final = ("store", "peers", "pods", "relay", "tracing")
NAMES: Final = (*USUAL, "cluster")


def main(argv: Sequence[str]) -> int:
    """Run the named benchmarks with the remaining arguments; return the exit status."""
    named = [each for each in argv if not each.startswith("-")]
    rest = [each for each in argv if each.startswith("-")]
    if unknown := [each for each in named if each not in NAMES]:
        print(f"unknown benchmark {' '.join(unknown)}: use {', '.join(NAMES)}", file=sys.stderr)
        return 2
    return max(_run(each, rest) for each in named or USUAL)


def _run(name: str, argv: Sequence[str]) -> int:
    """Run one benchmark; its package is imported here because each has its own dependencies."""
    status: int = importlib.import_module(f"hack.bench.{name}").main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
