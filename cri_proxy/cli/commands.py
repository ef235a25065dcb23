"""The table of commands: what each is called, what --help tells of it, and the options it takes.

An option is kept under the name of its field in `arguments.Options`, which has the defaults. A new
command is a line of the table, and a module of this package that is named like it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Command:
    """A command as --help tells it."""

    name: str
    about: str
    story: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    is_hidden: bool = False


def _nothing(_: argparse.ArgumentParser) -> None:
    pass


def _serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-router",
        action="store_true",
        help="serve kubelet by the interposer alone, as --serve-front=interposer",
    )
    parser.add_argument(
        "--replace",
        dest="is_replacing",
        action="store_true",
        help="take the socket over from a cri-proxy that runs: it finishes its calls and ends",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", dest="is_json", action="store_true", help="write JSON to standard output"
    )


def _references(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "references",
        metavar="REF",
        nargs="+",
        help="owner/name for the live generation, owner/name:7 for generation 7",
    )
    parser.add_argument(
        "--mode",
        choices=("run", "dev"),
        help="run (what pods get unless they say otherwise), or dev with build tools as well",
    )
    _json(parser)


def _startups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pod",
        metavar="POD",
        nargs="?",
        help="a pod's name, namespace/name or uid, or a trace id; by default every pod",
    )
    parser.add_argument("--count", type=_count, metavar="N", help="how many startups at most (5)")
    parser.add_argument(
        "--html", metavar="FILE", help="write one page for a browser, with nothing beside it"
    )
    _json(parser)


def _collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        dest="is_dry_run",
        action="store_true",
        help="tell what would be removed, remove nothing",
    )
    _json(parser)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("verify",), help="hash every store path again")
    parser.add_argument(
        "--repair",
        dest="does_repair",
        action="store_true",
        help="fetch what is damaged again, and mend environments",
    )
    _json(parser)


def _node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the unpacked image of a node, instead of this node: only files are changed then",
    )
    parser.add_argument(
        "--within",
        dest="seconds",
        type=_seconds,
        metavar="SECONDS",
        help="how long runtime and kubelet may take to be well again (120)",
    )


def _install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        dest="is_dry_run",
        action="store_true",
        help="show what would be changed, and change nothing",
    )
    _node(parser)


def _uninstall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purge",
        dest="is_purging",
        action="store_true",
        help="also remove all environments; refused while a container runs in one",
    )
    _node(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
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
        "Runs until SIGTERM or SIGINT, or until another takes its socket over, then answers what "
        "is in flight and ends.",
        _serving,
    ),
    Command(
        "check",
        "look at everything that the daemon needs on this node",
        "Looks at the runtime, the sockets, the disk, caches, FloxHub and the clock, changes "
        "nothing, and says what to do about what is not right. Exits with 1 if anything fails.",
        _json,
    ),
    Command(
        "realize",
        "put environments onto this node, before a pod asks for them",
        "Fetches the environments' store paths and makes their views, exactly as for a pod. What "
        "is there already is not fetched again; a running daemon uses what this leaves.",
        _references,
    ),
    Command(
        "environments",
        "list the environments on this node",
        "Lists what was realized here and is still there, the latest first.",
        _json,
    ),
    Command(
        "gc",
        "remove environments that no container, pod or pin holds",
        "Removes environments that were not started for a while (garbage.grace_seconds) and that "
        "nothing holds, with the store paths that no other environment has. The runtime says what "
        "is in use; while it does not answer, nothing is removed. A daemon may run meanwhile.",
        _collection,
    ),
    Command(
        "store",
        "verify what is on the disk, and repair it",
        "Hashes every store path again and compares it with what was verified when it was fetched, "
        "and the environments with the store. What is damaged is put in quarantine, so that no pod "
        "starts on it, and with --repair is fetched again. Exits with 1 while something is "
        "damaged. A daemon may run meanwhile.",
        _store,
    ),
    Command(
        "trace",
        "show the last startups of pods, and what each waited for",
        "Shows the startups that the daemon keeps on this node, the latest first: every call of "
        "kubelet's, what happened within it, and how long each took. A dot marks what the startup "
        "waited for.",
        _startups,
    ),
    Command(
        "install",
        "put the proxy between kubelet and the runtime of this node",
        "Finds the runtime and kubelet's configuration, sets the service up, points kubelet to it, "
        "and waits until the node is well again; if it is not, everything is taken back. Run from "
        "a newer release it upgrades in place. Run once more it does nothing.",
        _install,
    ),
    Command(
        "uninstall",
        "take the proxy off this node",
        "Points kubelet back to the runtime, waits until it is well, and restores every file that "
        "install has changed. Running containers stay; environments do, unless --purge is given.",
        _uninstall,
    ),
    Command(
        "version",
        "tell the versions of the program and of what it runs on",
        "Tells the versions of the program, Python, gRPC, protobuf, the kernel and the CRI.",
        _json,
    ),
    Command("worker", "", "A worker process; the daemon starts these itself.", _nothing, True),
    Command("share", "", "Serves other nodes; the daemon starts this itself.", _nothing, True),
    Command("sender", "", "Sends traces; the daemon starts it itself.", _nothing, True),
)
