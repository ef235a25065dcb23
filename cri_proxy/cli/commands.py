"""The table of commands: name, help text and options of each.

An option is stored under the name of its field in `arguments.Invocation`, which has the defaults. A
new command is an entry in the table and a module of this package with the command's name.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from typing import Final

Option = Callable[[argparse.ArgumentParser], object]
"""Adds one option to a parser."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `about` is its line in the list of commands, `description` heads its --help."""

    name: str
    about: str
    description: str
    options: tuple[Option, ...] = ()
    is_hidden: bool = False


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _flag(name: str, dest: str, about: str) -> Option:
    return methodcaller("add_argument", name, dest=dest, action="store_true", help=about)


def _value(name: str, **arguments: object) -> Option:
    return methodcaller("add_argument", name, **arguments)


_JSON: Final = _flag("--json", "is_json", "write JSON to standard output")
_NODE: Final = (
    _value(
        "--root",
        metavar="DIR",
        help="change the unpacked node image in DIR instead of this node; only files are changed",
    ),
    _value(
        "--within",
        dest="seconds",
        type=_seconds,
        metavar="SECONDS",
        help="how long runtime and kubelet may each take to become healthy (default: 120)",
    ),
)

COMMANDS: Final = (
    Command(
        "serve",
        "run the daemon between kubelet and the container runtime",
        "Runs until SIGTERM or SIGINT, or until another cri-proxy takes over its socket, then "
        "completes the calls in flight and exits.",
        (
            _flag(
                "--replace",
                "is_replacing",
                "take the socket over from a running cri-proxy, which finishes its calls and exits",
            ),
        ),
    ),
    Command(
        "check",
        "check that this node has everything that the daemon needs",
        "Checks the runtime, sockets, disk, binary caches, FloxHub and clock without changing "
        "anything, and says how to fix each problem. Exits with 1 if a check fails.",
        (_JSON,),
    ),
    Command(
        "realize",
        "realize environments on this node before a pod needs them",
        "Fetches the store paths of the environments and creates their views, exactly as for a "
        "pod. Paths that are already on the node are not fetched again, and a running daemon uses "
        "the result.",
        (
            _value(
                "references",
                metavar="REF",
                nargs="+",
                help="owner/name for the live generation, owner/name:7 for generation 7",
            ),
            _value(
                "--mode",
                choices=("run", "dev"),
                help="run (the default, as for pods), or dev, which includes build tools",
            ),
            _JSON,
        ),
    ),
    Command(
        "environments",
        "list the environments on this node",
        "Lists the environments that are realized on this node, the latest first.",
        (_JSON,),
    ),
    Command(
        "gc",
        "remove environments that no container, pod or pin holds",
        "Removes environments that have not been started for a while (garbage.grace_seconds) and "
        "are not held, together with the store paths that only they use. The runtime is asked "
        "which environments are in use; nothing is removed if it does not answer. The daemon may "
        "be running meanwhile.",
        (
            _flag("--dry-run", "is_dry_run", "show what would be removed without removing it"),
            _JSON,
        ),
    ),
    Command(
        "store",
        "verify the store on disk, and repair it",
        "Hashes every store path again and compares it with what was verified when it was fetched, "
        "and compares the environments with the store. Damaged paths are quarantined, so that no "
        "pod starts with them, and fetched again with --repair. Exits with 1 while anything is "
        "damaged. The daemon may be running meanwhile.",
        (
            _value("action", choices=("verify",), help="hash every store path again"),
            _flag(
                "--repair",
                "does_repair",
                "fetch damaged store paths again and repair the environments that use them",
            ),
            _JSON,
        ),
    ),
    Command(
        "trace",
        "show the latest pod startups, and what each waited for",
        "Shows the pod startups that the daemon recorded on this node, the latest first: kubelet's "
        "calls, the steps within each, and how long they took. A dot marks the steps that the "
        "startup waited for.",
        (
            _value(
                "pod",
                metavar="POD",
                nargs="?",
                help="a pod's name, namespace/name or uid, or a trace id (default: all pods)",
            ),
            _value(
                "--count", type=_count, metavar="N", help="show at most N startups (default: 5)"
            ),
            _value(
                "--html", metavar="FILE", help="write a self-contained HTML page to FILE instead"
            ),
            _JSON,
        ),
    ),
    Command(
        "install",
        "install the proxy between this node's kubelet and runtime",
        "Finds the runtime and kubelet's configuration, sets up the service, points kubelet to it, "
        "and waits until the node is healthy; if it does not become healthy, everything is rolled "
        "back. Run from a newer release it upgrades in place; run again it changes nothing.",
        (
            _flag("--dry-run", "is_dry_run", "show what would be changed without changing it"),
            *_NODE,
        ),
    ),
    Command(
        "uninstall",
        "remove the proxy from this node",
        "Points kubelet back to the runtime, waits until it is healthy, and restores every file "
        "that install changed. Running containers are not affected, and environments stay unless "
        "--purge is given.",
        (
            _flag(
                "--purge",
                "is_purging",
                "also remove all environments; refused while a container is running in one",
            ),
            *_NODE,
        ),
    ),
    Command(
        "version",
        "show the versions of the program and of what it runs on",
        "Shows the versions of the program, Python, gRPC, protobuf, the kernel and the CRI.",
        (_JSON,),
    ),
    Command("worker", "", "A worker process; started by the daemon.", is_hidden=True),
    Command("peer-server", "", "The peer server; started by the daemon.", is_hidden=True),
    Command("span-exporter", "", "The span exporter; started by the daemon.", is_hidden=True),
)
