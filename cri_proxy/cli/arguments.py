"""The command line: a command, its options, and every setting as a flag.

Two parsers read it, one after the other: the first knows what stands before the command, the second
is the command's own. Both know all settings, so a flag may stand on either side. A word that nobody
knows is refused with the one that was most likely meant.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import cri_proxy
from cri_proxy.cli import exits, screen
from cri_proxy.lib import suggestions
from cri_proxy.settings import CONFIG_FILE, keys, page

_DEST: Final = "setting "


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; `flags` are settings by key name."""

    command: str
    config: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    is_json: bool = False
    references: tuple[str, ...] = ()
    mode: str = "run"
    pod: str | None = None
    count: int = 5
    html: str | None = None
    is_purging: bool = False
    root: str = "/"
    seconds: float = 120
    is_replacing: bool = False
    is_dry_run: bool = False
    does_repair: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command as --help tells it."""

    name: str
    about: str
    story: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    is_hidden: bool = False


class _Parser(argparse.ArgumentParser):
    """argparse's parser with our words for what it refuses."""

    def error(self, message: str) -> NoReturn:
        screen.refuse(message)
        print(f"see {self.prog} --help", file=sys.stderr)
        raise SystemExit(exits.USAGE)

    def known_options(self) -> list[str]:
        return [name for name in self._option_string_actions if name.startswith("--")]


class _HelpSettings(argparse.Action):
    """--help-settings: every setting with its names, what it accepts and its default."""

    def __call__(self, *_: object) -> NoReturn:
        print(page.listing())
        raise SystemExit(exits.OK)


def parse(argv: Sequence[str]) -> Options:
    """Return what `argv` asks for; raise SystemExit after --help or for what is not understood."""
    first, before = _parser().parse_known_args(argv)
    if first.command is None:
        _refuse_nothing(before)
    command = _command_of(first.command)
    parser = _parser_of(command)
    second, unknown = parser.parse_known_args([*before, *first.rest])
    if unknown:
        _refuse_unknown(parser, unknown)
    return Options(
        command=command.name,
        config=getattr(second, "config", getattr(first, "config", None)),
        flags={**_flags_of(first), **_flags_of(second), **_alone(second)},
        is_json=getattr(second, "json", False),
        references=tuple(getattr(second, "references", ())),
        mode=getattr(second, "mode", "run"),
        pod=getattr(second, "pod", None),
        count=getattr(second, "count", 5),
        html=getattr(second, "html", None),
        is_purging=getattr(second, "purge", False),
        root=getattr(second, "root", "/"),
        seconds=getattr(second, "within", 120),
        is_replacing=getattr(second, "replace", False),
        is_dry_run=getattr(second, "dry_run", False),
        does_repair=getattr(second, "repair", False),
    )


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
        action="store_true",
        help="take the socket over from a cri-proxy that runs: it finishes its calls and ends",
    )


def _alone(namespace: argparse.Namespace) -> dict[str, str]:
    return {"serve.front": "interposer"} if getattr(namespace, "no_router", False) else {}


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")


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
        default="run",
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
    parser.add_argument(
        "--count", type=_count, default=5, metavar="N", help="how many startups at most (5)"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write one page for a browser, with nothing beside it"
    )
    _json(parser)


def _collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be removed, remove nothing"
    )
    _json(parser)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("verify",), help="hash every store path again")
    parser.add_argument(
        "--repair", action="store_true", help="fetch what is damaged again, and mend environments"
    )
    _json(parser)


def _node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        default="/",
        help="the unpacked image of a node, instead of this node: only files are changed then",
    )
    parser.add_argument(
        "--within",
        type=float,
        default=120,
        metavar="SECONDS",
        help="how long runtime and kubelet may take to be well again (120)",
    )


def _install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be changed, and change nothing"
    )
    _node(parser)


def _uninstall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also remove all environments; refused while a container runs in one",
    )
    _node(parser)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


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
_BY_NAME: Final = {command.name: command for command in COMMANDS}
_SHOWN: Final = tuple(command for command in COMMANDS if not command.is_hidden)


def _parser() -> _Parser:
    """Return the parser of what stands before the command."""
    width = max(len(command.name) for command in _SHOWN)
    listed = "\n".join(f"  {each.name:{width}}  {each.about}" for each in _SHOWN)
    parser = _Parser(
        prog="cri-proxy",
        usage="cri-proxy COMMAND [OPTIONS]",
        description=f"Runs pods inside FloxHub environments, between kubelet and the container "
        f"runtime.\n\ncommands:\n{listed}",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"cri-proxy {cri_proxy.__version__}")
    _add_settings(parser)
    return parser


def _parser_of(command: Command) -> _Parser:
    """Return the parser of what stands behind the command."""
    parser = _Parser(
        prog=f"cri-proxy {command.name}",
        description=textwrap.fill(command.story, 80),
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"settings file, instead of {CONFIG_FILE}",
    )
    parser.add_argument(
        "--help-settings", nargs=0, action=_HelpSettings, help="tell every setting and exit"
    )
    for key in keys.KEYS:
        parser.add_argument(
            key.flag,
            dest=f"{_DEST}{key}",
            action="append",
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def _flags_of(namespace: argparse.Namespace) -> dict[str, str]:
    """Return settings by key name: a list given by several flags is joined, else the last wins."""
    flags = {}
    for name, values in vars(namespace).items():
        if name.startswith(_DEST):
            key = _KEY_BY_NAME[name.removeprefix(_DEST)]
            flags[str(key)] = (
                " ".join(values) if isinstance(key.default, list | dict) else values[-1]
            )
    return flags


_KEY_BY_NAME: Final = {str(key): key for key in keys.KEYS}


def _command_of(word: str) -> Command:
    if word not in _BY_NAME:
        hint = suggestions.hint(word, [command.name for command in _SHOWN])
        _parser().error(f"there is no command {word!r}{hint}")
    return _BY_NAME[word]


def _refuse_nothing(before: Sequence[str]) -> NoReturn:
    """Refuse a command line without a command: with the help when it was quite empty."""
    if before:
        _refuse_unknown(_parser(), before)
    print(_parser().format_help(), end="", file=sys.stderr)
    raise SystemExit(exits.USAGE)


def _refuse_unknown(parser: _Parser, words: Sequence[str]) -> NoReturn:
    """Refuse the first word that `parser` did not take."""
    option = words[0].partition("=")[0]
    if option.startswith("-"):
        parser.error(f"unknown option {option}{suggestions.hint(option, parser.known_options())}")
    parser.error(f"unexpected argument {words[0]!r}")


def _epilog() -> str:
    """Return what stands below every --help."""
    codes = "\n".join(f"  {code:<3}  {meaning}" for code, meaning in exits.MEANINGS.items())
    return (
        "Every setting is a flag as well, such as --store-root or --log-level:\n"
        f"cri-proxy --help-settings tells them all.\n\nexit codes:\n{codes}"
    )
