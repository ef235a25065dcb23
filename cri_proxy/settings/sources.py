"""Sources: defaults < file < environment < --set, with all problems reported at once.

Each source provides values by key; a later source overrides an earlier one. Nothing is ignored: an
unknown section, key or variable is an error that suggests the most similar name, an invalid value
is an error that says where it was set and what is accepted. The result is the settings and, for
`cri-proxy check`, the origin of each.

    --config FILE or CRI_PROXY_CONFIG    the file, which must exist
    /etc/cri-proxy/config.toml           the file otherwise, if it exists
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import redaction, suggestions
from cri_proxy.settings import contradictions, keys, schema

CONFIG_FILE: Final = Path("/etc/cri-proxy/config.toml")
CONFIG_VARIABLE: Final = f"{keys.PREFIX}CONFIG"
DEFAULT: Final = "default"

# Kubernetes sets these variables in all pods of a namespace with a Service named cri-proxy.
_SERVICE_LINK: Final = re.compile(
    rf"{keys.PREFIX}(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)"
)
_BY_NAME: Final = {str(key): key for key in keys.KEYS}
_BY_VARIABLE: Final = {key.variable: key for key in keys.KEYS}


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """Where the value of one key comes from; `place` is what that source calls the key."""

    key: keys.Key
    source: str
    place: str
    _raw: object = field(repr=False)
    _is_text: bool = True

    @property
    def is_default(self) -> bool:
        """Whether no source set it."""
        return self.source == DEFAULT

    @property
    def shown(self) -> str:
        """The value as text: without credentials or control characters, and not too long."""
        try:
            text = redaction.text(keys.toml_of(self._raw))
        except TypeError:  # a date of TOML, which no key accepts
            text = str(self._raw)
        return text if len(text) <= 400 else f"{text[:397]}..."

    def parse(self) -> object:
        """Return the value; raise ValueError, without a message, if the key does not accept it."""
        kind = self.key.kind
        return kind.of_text(str(self._raw)) if self._is_text else kind.of_toml(self._raw)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the origin of every key in the table's order, and the file that was read."""

    settings: schema.Settings
    origins: tuple[ValueOrigin, ...]
    file: Path | None


def load(
    *, overrides: Sequence[str] = (), environment: Mapping[str, str], file: str | None = None
) -> Loaded:
    """Load the settings of this invocation; raise RequestInvalid with a line per problem.

    `overrides` are the values of --set (`store.root=/x`), `file` is that of --config.
    """
    problems: list[str] = []
    named = file or environment.get(CONFIG_VARIABLE)
    path = Path(named) if named else CONFIG_FILE if CONFIG_FILE.exists() else None
    given = {key: ValueOrigin(key, DEFAULT, "", key.default, False) for key in keys.KEYS}
    for each in (
        *_of_file(path, problems.append),
        *_of_environment(environment, problems.append),
        *_of_overrides(overrides, problems.append),
    ):
        given[each.key] = each
    values: dict[str, dict[str, object]] = {section: {} for section in keys.SECTIONS}
    for key, each in given.items():
        try:
            values[key.section][key.name] = each.parse()
        except ValueError:
            problems.append(f"{each.place} must be {key.kind.accepted}, not {each.shown}")
    if not problems:
        settings = schema.Settings(
            **{name: table(**values[name]) for name, table in keys.SECTIONS.items()}
        )
        problems = contradictions.of_settings(settings)
    if problems:
        raise errors.RequestInvalid("\n".join(problems))
    return Loaded(settings, tuple(given.values()), path)


def _of_file(path: Path | None, refuse: Callable[[str], None]) -> Iterator[ValueOrigin]:
    if path is None:
        return
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror or error}")
        return
    except UnicodeDecodeError:
        refuse(f"{path} is not a TOML file: it is not UTF-8 text")
        return
    except tomllib.TOMLDecodeError as error:
        refuse(f"{path} is not a TOML file: {error}")
        return
    for section, table in document.items():
        if section not in keys.SECTIONS:
            refuse(f"{path}: {_unknown_section(section, table)}")
        elif not isinstance(table, dict):
            refuse(f"{path}: {section} must be a section: write [{section}] on a line of its own")
        else:
            for name, raw in table.items():
                dotted = f"{section}.{name}"
                if key := _BY_NAME.get(dotted):
                    yield ValueOrigin(key, str(path), f"{path}: {dotted}", raw, _is_text=False)
                else:
                    refuse(f"{path}: unknown key {dotted}{_hint(dotted, _BY_NAME)}")


def _of_environment(
    environment: Mapping[str, str], refuse: Callable[[str], None]
) -> Iterator[ValueOrigin]:
    for variable in sorted(environment):
        if not variable.startswith(keys.PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if key := _BY_VARIABLE.get(variable):
            yield ValueOrigin(key, variable, variable, environment[variable])
        elif not _SERVICE_LINK.fullmatch(variable):
            refuse(f"unknown variable {variable}{_hint(variable, _BY_VARIABLE)}")


def _of_overrides(overrides: Sequence[str], refuse: Callable[[str], None]) -> Iterator[ValueOrigin]:
    """Yield the values of --set; a repeated list or table is joined, else the last value wins."""
    found: dict[keys.Key, str] = {}
    for override in overrides:
        name, equals, raw = override.partition("=")
        if name not in _BY_NAME:
            refuse(f"--set: unknown key {name}{_hint(name, _BY_NAME)}")
        elif not equals:
            refuse(f"--set {name} has no value: write --set {name}=VALUE")
        else:
            key = _BY_NAME[name]
            is_joined = key in found and isinstance(key.default, list | dict)
            found[key] = f"{found[key]} {raw}" if is_joined else raw
    for key, raw in found.items():
        yield ValueOrigin(key, "--set", f"--set {key}", raw)


def _unknown_section(name: str, value: object) -> str:
    """Return the error for a top-level name, which may be a key outside of its section."""
    if isinstance(value, dict):
        nearest = suggestions.nearest(name, keys.SECTIONS)
        meant = f"[{nearest}]" if nearest else None
        what = f"unknown section [{name}]"
    else:
        homes = [str(key) for key in keys.KEYS if key.name == name]
        meant = " or ".join(homes) or suggestions.nearest(name, _BY_NAME)
        what = f"unknown key {name}"
    return f"{what}; did you mean {meant}?" if meant else f"{what}{_EVERY_SETTING}"


_EVERY_SETTING: Final = "; cri-proxy --help-settings lists every setting"


def _hint(word: str, known: Mapping[str, keys.Key]) -> str:
    return suggestions.hint(word, known) or _EVERY_SETTING
