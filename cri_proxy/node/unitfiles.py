"""A service's command line as systemd makes it: unit, drop-ins, environment files.

Of each word of it is known which file it comes from: whoever wants to change a word has to change
that file. The rules are systemd's, as far as kubelet's units in the field use them: files of one
name hide each other by directory, drop-ins are read by name, an empty ExecStart= starts anew, a
variable standing alone is split into words (systemd.service(5), systemd.unit(5)).
"""

from __future__ import annotations

import re
import shlex
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
"""Where units are, the first wins."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command line; `file` is where it is written, in `variable` if not in the unit."""

    text: str
    file: str
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """What a service runs."""

    name: str
    words: Sequence[Word]
    command: str
    """The last ExecStart= as it is written."""
    environment_files: Sequence[str]
    references: Sequence[str]
    """The variables that the command names, in their order."""

    def variables_file(self, variable: str) -> str | None:
        """Return the environment file that such a variable is meant to be in, by its usual name."""
        if variable not in self.references:
            return None
        usual = ("/etc/default/kubelet", "/etc/sysconfig/kubelet")
        return next((each for each in reversed(self.environment_files) if each in usual), None)


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    value: str
    file: str


def service_of(root: Root, name: str) -> Service | None:
    """Return the service of the unit `name`, None if there is no such unit.

    Raises RequestInvalid for a command line that systemd could not read either.
    """
    files = _files_of(root, name)
    if not files:
        return None
    command: _Line | None = None
    variables: dict[str, tuple[str, str]] = {}
    environment_files: list[str] = []
    for line in (each for file in files for each in _lines_of(root, file)):
        match line.key:
            case "ExecStart":
                command = line if line.value else None
            case "Environment":
                variables |= {key: (value, line.file) for key, value in _assigned(line.value)}
            case "EnvironmentFile" if line.value:
                environment_files.append(line.value.lstrip("-"))
            case "EnvironmentFile":
                environment_files.clear()
    for file in environment_files:
        for each in (root.text(file) or "").splitlines():
            if not each.lstrip().startswith(("#", ";")):
                variables |= {key: (value, file) for key, value in _assigned(each)}
    if command is None:
        return Service(name, (), "", environment_files, ())
    words = list(_expanded(command, variables))
    references = re.findall(r"\$\{?(\w+)\}?", command.value)
    return Service(name, words, command.value, environment_files, references)


def _files_of(root: Root, name: str) -> list[str]:
    """Return the unit's file and its drop-ins, in the order in which they count."""
    unit = next(
        (f"{each}/{name}" for each in DIRECTORIES if root.text(f"{each}/{name}") is not None), None
    )
    dropins: dict[str, str] = {}
    for directory in reversed(DIRECTORIES):
        for each in root.names(f"{directory}/{name}.d"):
            if each.endswith(".conf"):
                dropins[each] = f"{directory}/{name}.d/{each}"
    return [] if unit is None else [unit, *(dropins[each] for each in sorted(dropins))]


def _lines_of(root: Root, file: str) -> Iterator[_Line]:
    """Yield the assignments of a unit's [Service] section."""
    section = ""
    text = re.sub(r"\\\n(?:[#;].*\n)*", " ", root.text(file) or "")
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            yield _Line(key.strip(), value.strip(), file)


def _assigned(text: str) -> list[tuple[str, str]]:
    """Return the assignments in a line: NAME=value, the whole or the value quoted."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote without its other
        words = text.split()
    if words and len(words) > 1 and not any("=" in each for each in words[1:]):
        words = [text]  # an environment file needs no quotes around words
    pairs = (each.partition("=") for each in words)
    return [(key.strip(), value) for key, equals, value in pairs if equals]


def _expanded(command: _Line, variables: Mapping[str, tuple[str, str]]) -> Iterator[Word]:
    for word in _split(command.value.lstrip("@-:+!"), command.file):
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
            f"{file} has a quote without its other in what it adds to the command line: mend it"
        ) from error
