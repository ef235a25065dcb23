"""Activation: the variables and the command prefix that make a program run inside an environment.

An environment without a hook, whose `[vars]` need no shell, is *static*: its variables go straight
into the container and nothing runs before the program. Otherwise `activate` (activate.sh, copied
into FLOX_ENV) is put in front of the program: it reads `activate.d/envrc`, sources
`activate.d/hook-on-activate`, and becomes the program. Variables and paths that do not depend on
the hook are given to the container in both cases, so that whatever enters it later finds them.

What Flox does in run mode is the model: facts about variables and quoting come from its
documentation and from observing what `envrc` holds. Everything here is pure.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.model.environments import Environment, Mode

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_DATA_DIRS: Final = "/usr/local/share:/usr/share"
# What compilers and build tools look into; an empty place is FLOX_ENV itself.
_BUILD_PATHS: Final = {
    "CPATH": ("include",),
    "LIBRARY_PATH": ("lib",),
    "PKG_CONFIG_PATH": ("lib/pkgconfig", "share/pkgconfig"),
    "ACLOCAL_PATH": ("share/aclocal",),
    "CMAKE_PREFIX_PATH": ("",),
}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPANDED: Final = frozenset("$`\\")
_BARE_QUOTE: Final = re.compile(r'\\.|"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Argument lists that start programs inside an environment; empty when nothing runs before."""

    start: tuple[str, ...] = ()
    join: tuple[str, ...] = ()


def script() -> bytes:
    """Return the text of `activate`, the script that execs the program."""
    return (importlib.resources.files(__package__) / "activate.sh").read_bytes()


def is_static(variables: Iterable[tuple[str, str]], hook: str | None) -> bool:
    """Return whether no shell is needed: there is no hook, and no value has expansions."""
    return not hook and all(_EXPANDED.isdisjoint(value) for _, value in variables)


def static_variables(variables: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the `[vars]` whose values need no shell, in their order."""
    return tuple((name, value) for name, value in variables if _EXPANDED.isdisjoint(value))


def envrc(variables: Iterable[tuple[str, str]]) -> str:
    r"""Return the shell text that exports `[vars]`, in their order, each value double-quoted.

    `$NAME`, `$(command)` and backticks are expanded, as in Flox. A bare `"` would end the quotes;
    it is escaped, save in values with substitutions, where a quote may belong to the command.
    Raises EnvironmentUnsuitable for a name that no shell can export.
    """
    lines = []
    for name, value in variables:
        if not _IDENTIFIER.fullmatch(name):
            raise errors.EnvironmentUnsuitable(
                f"the environment's [vars] name {name[:100]!a} is no variable name: use letters, "
                "digits and underscores, and push the environment again"
            )
        lines.append(f'export {name}="{_quoted(value)}"\n')
    return "".join(lines)


def command(environment: Environment, keep: str) -> Launcher:
    """Return the command prefixes of the program, and of programs that join its container later.

    `keep` names the file in the container's own file system that carries the hook's variables from
    the first to the second.
    """
    if environment.shell is None:
        return Launcher()
    bash = _activate(environment.shell, environment)
    return Launcher(start=(*bash, "--keep", keep, "--"), join=(*bash, "--join", keep, "--"))


def command_alone(environment: Environment, variables: Iterable[tuple[str, str]]) -> Launcher:
    """Return the command prefix that gives `variables` to the program alone; nothing can join it.

    Raises EnvironmentUnsuitable for an environment that was realized without a shell.
    """
    if environment.shell is None:
        raise errors.EnvironmentUnsuitable(
            f"environment {environment.reference} is on this node without a shell, which is needed "
            "to keep its variables from what is executed in the container: install bash in the "
            "environment, or take the container out of skip-containers-exec"
        )
    settings = [part for name, value in variables for part in ("--set", f"{name}={value}")]
    return Launcher(start=(*_activate(environment.shell, environment), *settings, "--"))


def container_variables(
    environment: Environment, given: Mapping[str, str], directory: str
) -> tuple[tuple[str, str], ...]:
    """Return the variables to add to a container, in the order in which they are to be added.

    `given` are those that the container has already, the image's overridden by the pod's;
    `directory` is where its program starts. Lists such as PATH are put in front of what is given;
    defaults such as SSL_CERT_FILE do not override it; `[vars]` do.
    """
    flox_env = str(environment.flox_env)
    name = environment.reference.name
    described = f"{environment.reference.owner}/{name}"
    added = {
        "FLOX_ENV": flox_env,
        "FLOX_ENV_CACHE": "/tmp",  # noqa: S108  # the container's own, as Flox's images have it
        "FLOX_ENV_PROJECT": directory or "/",
        "FLOX_ENV_DESCRIPTION": described,
        "FLOX_ENV_DIRS": flox_env,
        "FLOX_PROMPT_ENVIRONMENTS": described,
        "FLOX_PROMPT_COLOR_1": "99",
        "FLOX_PROMPT_COLOR_2": "141",
        "FLOX_ACTIVATE_START_SERVICES": "false",
        "PATH": f"{flox_env}/bin:{given.get('PATH') or DEFAULT_PATH}",
        "MANPATH": f"{flox_env}/share/man:{given.get('MANPATH', '')}",
        "INFOPATH": f"{flox_env}/share/info:{given.get('INFOPATH', '')}",
        "XDG_DATA_DIRS": f"{flox_env}/share:{given.get('XDG_DATA_DIRS') or DEFAULT_DATA_DIRS}",
    }
    if environment.mode is Mode.DEV:
        for variable, places in _BUILD_PATHS.items():
            ours = ":".join(f"{flox_env}/{place}" if place else flox_env for place in places)
            added[variable] = ":".join(filter(None, (ours, given.get(variable))))
    if environment.certificates is not None:
        for variable in ("SSL_CERT_FILE", "NIX_SSL_CERT_FILE"):
            if not given.get(variable):
                added[variable] = environment.certificates
    if environment.locale_archive is not None and not given.get("LOCALE_ARCHIVE"):
        added["LOCALE_ARCHIVE"] = environment.locale_archive
    added.update(environment.variables)
    return tuple(added.items())


def _activate(shell: str, environment: Environment) -> tuple[str, ...]:
    """Return the beginning of every command that runs `activate`."""
    return (shell, "--noprofile", "--norc", "-p", f"{environment.flox_env}/activate")


def _quoted(value: str) -> str:
    """Return `value` as it stands between double quotes in `envrc`."""
    if "$(" in value or "${" in value or "`" in value:
        return value
    escaped = _BARE_QUOTE.sub(lambda found: '\\"' if found[0] == '"' else found[0], value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return escaped + "\\" if trailing % 2 else escaped
