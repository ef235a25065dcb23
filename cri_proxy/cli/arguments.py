"""The command line: one of `commands`, its options, and every setting as a flag.

Two parsers read it, one after the other: the first knows what stands before the command, the second
is the command's own. Both know all settings, so a flag may stand on either side. A word that nobody
knows is refused with the one that was most likely meant.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, NoReturn

import cri_proxy
from cri_proxy.cli import exits, screen
from cri_proxy.cli.commands import COMMANDS, Command
from cri_proxy.lib import suggestions
from cri_proxy.settings import CONFIG_FILE, keys, page

_DEST: Final = "setting "


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was asked for; `flags` are settings by key name, `seconds` what --within says."""

    command: str
    config: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    is_json: bool = False
    references: Sequence[str] = ()
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


_FIELDS: Final = frozenset(each.name for each in fields(Invocation))


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


def parse(argv: Sequence[str]) -> Invocation:
    """Return what `argv` asks for; raise SystemExit after --help or for what is not understood."""
    first, before = _parser().parse_known_args(argv)
    if first.command is None:
        _refuse_nothing(before)
    command = _command_of(first.command)
    parser = _parser_of(command)
    second, unknown = parser.parse_known_args([*before, *first.rest])
    if unknown:
        _refuse_unknown(parser, unknown)
    taken = {**vars(first), **vars(second)}
    own = {name: taken[name] for name in _FIELDS & taken.keys()}
    flags = {**_flags_of(first), **_flags_of(second), **_alone(second)}
    return Invocation(**{**own, "command": command.name, "flags": flags})


def _alone(namespace: argparse.Namespace) -> dict[str, str]:
    return {"serve.front": "interposer"} if getattr(namespace, "no_router", False) else {}


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
        argument_default=argparse.SUPPRESS,
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
