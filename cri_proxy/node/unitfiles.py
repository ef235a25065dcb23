"""A service's command line as systemd assembles it from unit, drop-ins and environment files.

Each word carries the file that it comes from, which is the one to edit to change the word. The
rules are systemd's, as far as real kubelet units use them: a unit hides those of the same name in
later directories, drop-ins are read in the order of their names, an empty assignment resets a list,
and a variable that stands alone is split into words (systemd.service(5), systemd.unit(5)).
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.node.root import Root

DIRECTORIES: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
"""The directories of units, in order of precedence."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command line, and the file and variable, if any, that it comes from."""

    text: str
    file: str
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its command line."""

    name: str
    words: Sequence[Word]
    command: str
    """The effective ExecStart=, unexpanded."""
    environment_files: Sequence[str]
    references: Sequence[str]
    """The variables that the command uses, in their order."""

    def variables_file(self, variable: str) -> str | None:
        """Return the environment file for such a variable, if the service reads a usual one.

        None if the command does not use the variable.
        """
        if variable not in self.references:
            return None
        usual = ("/etc/default/kubelet", "/etc/sysconfig/kubelet")
        return next((each for each in reversed(self.environment_files) if each in usual), None)


def service_of(root: Root, name: str) -> Service | None:
    """Return the service of the unit `name`, None if there is no such unit.

    Raises RequestInvalid for a command line with an unbalanced quote.
    """
    files = _files_of(root, name)
    if not files:
        return None
    values: defaultdict[str, list[Word]] = defaultdict(list)
    for file in files:
        for key, value in _settings_of(root, file):
            if value:
                values[key].append(Word(value, file))
            else:
                values[key].clear()
    environment_files = [each.text.lstrip("-") for each in values["EnvironmentFile"]]
    for file in environment_files:
        for line in (root.text(file) or "").splitlines():
            if not line.lstrip().startswith(("#", ";")):
                values["Environment"].append(Word(line, file))
    variables = {
        variable: (value, line.file)
        for line in values["Environment"]
        for variable, value in _assigned(line.text)
    }
    if not values["ExecStart"]:
        return Service(name, (), "", environment_files, ())
    command = values["ExecStart"][-1]
    words = list(_expanded(command, variables))
    references = re.findall(r"\$\{?(\w+)\}?", command.text)
    return Service(name, words, command.text, environment_files, references)


def _files_of(root: Root, name: str) -> list[str]:
    """Return the unit's file and its drop-ins, in the order in which systemd reads them."""
    unit = next(
        (f"{each}/{name}" for each in DIRECTORIES if root.text(f"{each}/{name}") is not None), None
    )
    if unit is None:
        return []
    dropins = {
        each: f"{directory}/{name}.d/{each}"
        for directory in reversed(DIRECTORIES)
        for each in root.names(f"{directory}/{name}.d")
        if each.endswith(".conf")
    }
    return [unit, *(dropins[each] for each in sorted(dropins))]


def _settings_of(root: Root, file: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of a unit's [Service] section."""
    section = ""
    text = re.sub(r"\\\n(?:[#;].*\n)*", " ", root.text(file) or "")
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def _assigned(text: str) -> list[tuple[str, str]]:
    """Return the assignments in a line: NAME=value, the whole or the value quoted."""
    try:
        words = shlex.split(text)
    except ValueError:  # an unbalanced quote
        words = text.split()
    if len(words) > 1 and not any("=" in each for each in words[1:]):
        words = [text]  # values in environment files may contain unquoted blanks
    pairs = (each.partition("=") for each in words)
    return [(key.strip(), value) for key, equals, value in pairs if equals]


def _expanded(command: Word, variables: Mapping[str, tuple[str, str]]) -> Iterator[Word]:
    for word in _split(command.text.lstrip("@-:+!"), command.file):
        if match := re.fullmatch(r"\$(\w+)|\$\{(\w+)\}", word):
            name = match[1] or match[2]
            value, file = variables.get(name, ("", ""))
            parts = _split(value, file) if match[1] else [value]
            yield from (Word(part, file, name) for part in parts)
        else:
            yield Word(word, command.file)


def _split(text: str, file: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise errors.RequestInvalid(
            f"{file} has an unbalanced quote in its part of the command line: fix it"
        ) from error
