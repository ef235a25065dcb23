"""The table of commands: name, help text and options of each.

An option is stored under the name of its field in `arguments.Invocation`, which has the defaults. A
new command is an entry in the table and a module of this package with the command's name.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `about` is its line in the list of commands, `description` heads its --help."""

    name: str
    about: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    is_hidden: bool = False


def _nothing(_: argparse.ArgumentParser) -> None:
    pass


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace",
        dest="is_replacing",
        action="store_true",
        help="take the socket over from a running cri-proxy, which finishes its calls and exits",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", dest="is_json", action="store_true", help="write JSON to standard output"
    )


def _realize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "references",
        metavar="REF",
        nargs="+",
        help="owner/name for the live generation, owner/name:7 for generation 7",
    )
    parser.add_argument(
        "--mode",
        choices=("run", "dev"),
        help="run (the default, as for pods), or dev, which includes build tools",
    )
    _json(parser)


def _trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pod",
        metavar="POD",
        nargs="?",
        help="a pod's name, namespace/name or uid, or a trace id (default: all pods)",
    )
    parser.add_argument(
        "--count", type=_count, metavar="N", help="show at most N startups (default: 5)"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write a self-contained HTML page to FILE instead"
    )
    _json(parser)


def _gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        dest="is_dry_run",
        action="store_true",
        help="show what would be removed without removing it",
    )
    _json(parser)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("verify",), help="hash every store path again")
    parser.add_argument(
        "--repair",
        dest="does_repair",
        action="store_true",
        help="fetch damaged store paths again and repair the environments that use them",
    )
    _json(parser)


def _node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="change the unpacked node image in DIR instead of this node; only files are changed",
    )
    parser.add_argument(
        "--within",
        dest="seconds",
        type=_seconds,
        metavar="SECONDS",
        help="how long runtime and kubelet may each take to become healthy (default: 120)",
    )


def _install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        dest="is_dry_run",
        action="store_true",
        help="show what would be changed without changing it",
    )
    _node(parser)


def _uninstall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purge",
        dest="is_purging",
        action="store_true",
        help="also remove all environments; refused while a container is running in one",
    )
    _node(parser)


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


COMMANDS: Final = (
    Command(
        "serve",
        "run the daemon between kubelet and the container runtime",
        "Runs until SIGTERM or SIGINT, or until another cri-proxy takes over its socket, then "
        "completes the calls in flight and exits.",
        _serve,
    ),
    Command(
        "check",
        "check that this node has everything that the daemon needs",
        "Checks the runtime, sockets, disk, binary caches, FloxHub and clock without changing "
        "anything, and says how to fix each problem. Exits with 1 if a check fails.",
        _json,
    ),
    Command(
        "realize",
        "realize environments on this node before a pod needs them",
        "Fetches the store paths of the environments and creates their views, exactly as for a "
        "pod. Paths that are already on the node are not fetched again, and a running daemon uses "
        "the result.",
        _realize,
    ),
    Command(
        "environments",
        "list the environments on this node",
        "Lists the environments that are realized on this node, the latest first.",
        _json,
    ),
    Command(
        "gc",
        "remove environments that no container, pod or pin holds",
        "Removes environments that have not been started for a while (garbage.grace_seconds) and "
        "are not held, together with the store paths that only they use. The runtime is asked "
        "which environments are in use; nothing is removed if it does not answer. The daemon may "
        "be running meanwhile.",
        _gc,
    ),
    Command(
        "store",
        "verify the store on disk, and repair it",
        "Hashes every store path again and compares it with what was verified when it was fetched, "
        "and compares the environments with the store. Damaged paths are quarantined, so that no "
        "pod starts with them, and fetched again with --repair. Exits with 1 while anything is "
        "damaged. The daemon may be running meanwhile.",
        _store,
    ),
    Command(
        "trace",
        "show the latest pod startups, and what each waited for",
        "Shows the pod startups that the daemon recorded on this node, the latest first: kubelet's "
        "calls, the steps within each, and how long they took. A dot marks the steps that the "
        "startup waited for.",
        _trace,
    ),
    Command(
        "install",
        "install the proxy between this node's kubelet and runtime",
        "Finds the runtime and kubelet's configuration, sets up the service, points kubelet to it, "
        "and waits until the node is healthy; if it does not become healthy, everything is rolled "
        "back. Run from a newer release it upgrades in place; run again it changes nothing.",
        _install,
    ),
    Command(
        "uninstall",
        "remove the proxy from this node",
        "Points kubelet back to the runtime, waits until it is healthy, and restores every file "
        "that install changed. Running containers are not affected, and environments stay unless "
        "--purge is given.",
        _uninstall,
    ),
    Command(
        "version",
        "show the versions of the program and of what it runs on",
        "Shows the versions of the program, Python, gRPC, protobuf, the kernel and the CRI.",
        _json,
    ),
    Command("worker", "", "A worker process; started by the daemon.", _nothing, True),
    Command("peer-server", "", "The peer server; started by the daemon.", _nothing, True),
    Command("span-exporter", "", "The span exporter; started by the daemon.", _nothing, True),
)
