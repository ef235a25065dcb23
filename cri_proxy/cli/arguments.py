"""The command line: one of `commands`, its options, and settings given with `--set`.

Two parsers read it into the same namespace: the first finds the command, the second is that
command's own. Both take the common options, so `--config` and `--set` may precede or follow the
command. An unknown word is refused with a suggestion for the one that was meant.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, NoReturn

import cri_proxy
from cri_proxy.cli import exits, screen
from cri_proxy.cli.commands import COMMANDS
from cri_proxy.lib import suggestions
from cri_proxy.settings import CONFIG_FILE, page


@dataclass(frozen=True, slots=True)
class Invocation:
    """A parsed command line; `overrides` are the values of --set, `seconds` that of --within."""

    command: str
    config: str | None = None
    overrides: Sequence[str] = ()
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
_BY_NAME: Final = {command.name: command for command in COMMANDS}
_SHOWN: Final = tuple(command for command in COMMANDS if not command.is_hidden)


class _Parser(argparse.ArgumentParser):
    """argparse's parser with our error format and the common options."""

    def __init__(self, *, prog: str, usage: str | None = None, description: str) -> None:
        codes = "\n".join(f"  {code:<3}  {meaning}" for code, meaning in exits.MEANINGS.items())
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=f"exit codes:\n{codes}",
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--config", metavar="FILE", help=f"settings file (default: {CONFIG_FILE})"
        )
        self.add_argument(
            "--set",
            dest="overrides",
            action="append",
            metavar="KEY=VALUE",
            help="override a setting, such as store.root=/mnt/store; repeatable",
        )
        self.add_argument(
            "--help-settings", nargs=0, action=_HelpSettings, help="list every setting and exit"
        )

    def error(self, message: str) -> NoReturn:
        screen.print_error(message)
        print(f"see {self.prog} --help", file=sys.stderr)
        raise SystemExit(exits.USAGE)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse the first of the words that this parser did not take."""
        option = words[0].partition("=")[0]
        if option.startswith("-"):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"unknown option {option}{suggestions.hint(option, known)}")
        self.error(f"unexpected argument {words[0]!r}")


class _HelpSettings(argparse.Action):
    """--help-settings: every setting with its names, accepted values and default."""

    def __call__(self, *_: object) -> NoReturn:
        print(page.listing())
        raise SystemExit(exits.OK)


def parse(argv: Sequence[str]) -> Invocation:
    """Parse a command line; raise SystemExit after --help or for one that is refused."""
    first = _first_parser()
    namespace, before = first.parse_known_args(argv)
    if namespace.command is None:
        if before:
            first.refuse_unknown(before)
        print(first.format_help(), end="", file=sys.stderr)
        raise SystemExit(exits.USAGE)
    if namespace.command not in _BY_NAME:
        hint = suggestions.hint(namespace.command, [command.name for command in _SHOWN])
        first.error(f"there is no command {namespace.command!r}{hint}")
    command = _BY_NAME[namespace.command]
    about = textwrap.fill(command.description, 80)
    parser = _Parser(prog=f"cri-proxy {command.name}", description=about)
    for add_to in command.options:
        add_to(parser)
    _, unknown = parser.parse_known_args([*before, *namespace.rest], namespace)
    if unknown:
        parser.refuse_unknown(unknown)
    return Invocation(**{name: vars(namespace)[name] for name in _FIELDS & vars(namespace).keys()})


def _first_parser() -> _Parser:
    """Return the parser of the words up to the command."""
    width = max(len(command.name) for command in _SHOWN)
    listed = "\n".join(f"  {each.name:{width}}  {each.about}" for each in _SHOWN)
    parser = _Parser(
        prog="cri-proxy",
        usage="cri-proxy COMMAND [OPTIONS]",
        description="Runs pods inside FloxHub environments, between kubelet and the container "
        f"runtime.\n\ncommands:\n{listed}",
    )
    parser.add_argument("command", nargs="?", default=None, help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, default=(), help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"cri-proxy {cri_proxy.__version__}")
    return parser
