"""JSON whose values know their place in the document, for errors that name it.

FloxHub's documents (metadata.json, manifest.lock, the catalog's responses) are read through
`Field`: a value of an unexpected type is refused with its place, as in
"packages[3].outputs.out must be a text, not a number". Keys that are not asked for are not looked
at, so newer documents pass.

An object that has a key twice is refused: parsers differ on which of the two counts, and a node
must not run something else than the author's own Flox showed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors

_TYPES: Final = {
    dict: "an object",
    list: "an array",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}
SHOWN_LETTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Field:
    """A value, its place inside the document, and the document's name in errors."""

    value: object
    place: str
    document: str

    def get(self, key: str) -> Field | None:
        """Return the field below `key` of an object, or None when it is absent or null."""
        value = self._object().get(key)
        return None if value is None else Field(value, self._below(key), self.document)

    def require(self, key: str) -> Field:
        """Return the field below `key`; raise ContentDamaged when it is absent or null."""
        found = self.get(key)
        if found is None:
            raise errors.ContentDamaged(f"{self.document} lacks {self._below(key)}")
        return found

    def has(self, key: str) -> bool:
        """Return whether the object has `key` at all, even with null."""
        return key in self._object()

    def members(self) -> Iterator[tuple[str, Field]]:
        """Yield the keys and fields of an object in their order; those with null are left out."""
        for key, value in self._object().items():
            if value is not None:
                _refuse_unprintable(key, self, "a key of it")
                yield key, Field(value, self._below(key), self.document)

    def items(self) -> Iterator[Field]:
        """Yield the elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong("an array")
        for index, value in enumerate(self.value):
            yield Field(value, f"{self.place}[{index}]", self.document)

    def text(self) -> str:
        """Return a text that has UTF-8 bytes and no NUL, as programs and files need it."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        _refuse_unprintable(self.value, self, "it")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """Return the elements of an array of texts."""
        return tuple(each.text() for each in self.items())

    def integer(self) -> int:
        """Return a whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong("a whole number")
        return self.value

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def wrong(self, expected: str) -> errors.ContentDamaged:
        """Return the error for a value that is not what the format promises."""
        is_text = isinstance(self.value, str)
        found = shown(repr(self.value)) if is_text else type_of(self.value)
        return errors.ContentDamaged(
            f"{self.document}: {self.place or 'the whole'} must be {expected}, not {found}"
        )

    def _object(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def _below(self, key: str) -> str:
        key = shown(key)
        return f"{self.place}.{key}" if self.place else key


def parse(data: bytes, document: str) -> Field:
    """Return the root of a JSON document; raise ContentDamaged unless it is strict JSON.

    `document` is its name in errors, such as "manifest.lock of alice/web:3".
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise errors.ContentDamaged(
            f"{document} is not valid JSON ({shown(reason)}): push the environment again"
        ) from error
    return Field(value, "", document)


def type_of(value: object) -> str:
    """Return what JSON calls a value, with its article."""
    return _TYPES[type(value)]


def shown(text: str) -> str:
    """Return `text` for a message: printable, on one line, of bounded length."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    plain = "".join(letter if letter.isprintable() else "?" for letter in plain)
    return plain if len(plain) <= SHOWN_LETTERS else plain[: SHOWN_LETTERS - 3] + "..."


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shown(key)} occurs twice in one object")
        made[key] = value
    return made


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refuse_unprintable(text: str, field: Field, what: str) -> None:
    """Raise ContentDamaged for a NUL or half a surrogate pair, which no program can be given."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise errors.ContentDamaged(
            f"{field.document}: {field.place or 'the whole'} is damaged, {what} has a NUL or "
            f"half a surrogate pair"
        )
