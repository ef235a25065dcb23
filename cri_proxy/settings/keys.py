"""Names of all settings, derived from the sections of `schema`.

Key `k` of section `s` is named `s.k` in messages and after --set, and CRI_PROXY_S_K in the
environment. `toml_of` formats a default as it would be written in the file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cri_proxy.settings import schema
from cri_proxy.settings.kinds import ValueKind

PREFIX: Final = "CRI_PROXY_"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One setting; compared by identity. `default` is the value as TOML gives it."""

    section: str
    name: str
    kind: ValueKind[object]
    default: object
    about: str

    def __str__(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return f"{PREFIX}{self.section}_{self.name}".upper()


SECTIONS: Final[Mapping[str, type]] = {
    each.name: type(getattr(schema.Settings(), each.name))
    for each in dataclasses.fields(schema.Settings)
}
KEYS: Final = tuple(
    Key(section, each.name, **each.metadata)
    for section, table in SECTIONS.items()
    for each in dataclasses.fields(table)
)


def toml_of(value: object) -> str:
    """Format a value, as TOML gives it, as TOML text on one line."""
    match value:
        case Mapping():
            pairs = [
                f"{name if _BARE.fullmatch(name) else json.dumps(name)} = {toml_of(each)}"
                for name, each in value.items()
            ]
            return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
        case list() | tuple():
            return f"[{', '.join(toml_of(each) for each in value)}]"
        case _:
            # strings and numbers are written alike in JSON and TOML
            return json.dumps(value, ensure_ascii=False)
