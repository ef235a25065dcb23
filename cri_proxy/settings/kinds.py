"""Kinds of values: the type of a key, as a description and two parsers.

A value arrives in one of two forms: as TOML gives it (string, number, list, table) or as text from
the environment or a flag. A kind parses both into the value that the program uses, and raises
ValueError without a message for anything else: `sources` knows where the value was set and words
the error with the kind's `accepted`.

In text form, the elements of a list are separated by commas or spaces, and those of a table are
written `name=value`.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from cri_proxy import errors
from cri_proxy.model import imagenames, references, storepaths
from cri_proxy.model.imagenames import ImageName

SOCKET_PATH_BYTES: Final = 107
"""The longest path that fits Linux's sockaddr_un, without its terminating NUL."""

_SEPARATOR: Final = re.compile(r"[,\s]+")
# No query and no fragment, as paths are appended; no comma, which separates list elements.
_URL: Final = re.compile(r"[^\x00-\x20\"#,<>?\x7f-\U0010ffff]+")
_HANDLER: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_HOST: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?|\[(?P<v6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{1,5}))?"
)
_PUBLIC_KEY: Final = re.compile(r"[A-Za-z0-9._-]+:([A-Za-z0-9+/]{43}=)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValueKind(Generic[T]):
    """The type of one key; `accepted` completes the sentence "must be …"."""

    accepted: str
    of_toml: Callable[[object], T]
    of_text: Callable[[str], T]

    def key(self, default: object, about: str) -> T:
        """Return the dataclass field of a key; `default` is a value as TOML gives it."""
        return field(
            default_factory=lambda: self.of_toml(default),
            metadata={"kind": self, "default": default, "about": about},
        )


def _textual(accepted: str) -> Callable[[Callable[[str], T]], ValueKind[T]]:
    """Return a decorator: a parser of text becomes the kind whose TOML form is a string."""

    def kind_of(parse: Callable[[str], T]) -> ValueKind[T]:
        def of_text(text: object) -> T:
            if not isinstance(text, str):
                raise ValueError
            try:
                return parse(text)
            except errors.RequestInvalid:
                raise ValueError from None

        return ValueKind(accepted, of_text, of_text)

    return kind_of


def whole(low: int, high: int) -> ValueKind[int]:
    """Return the kind of integers from `low` to `high`, both included."""

    def of_toml(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return ValueKind(
        f"a whole number from {low} to {high}", of_toml, lambda text: of_toml(int(text))
    )


def seconds(low: float, high: float) -> ValueKind[float]:
    """Return the kind of durations from `low` to `high`, both included, with fractions."""

    def of_toml(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not low <= value <= high:  # nor is NaN
            raise ValueError
        return float(value)

    accepted = f"a number of seconds from {low:g} to {high:g}"
    return ValueKind(accepted, of_toml, lambda text: of_toml(float(text)))


share: Final = replace(seconds(0, 1), accepted="a number from 0 to 1")
"""Ratios."""


def choice(*words: str) -> ValueKind[str]:
    """Return the kind of values that are one of `words`."""

    @_textual(f"one of {', '.join(words)}")
    def kind(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return kind


def choice_or(word: str, prefix: str) -> ValueKind[str]:
    """Return the kind of `word`, `prefix` followed by an absolute path, or the empty string."""

    @_textual(f"{word}, {prefix}/directory, or empty")
    def kind(text: str) -> str:
        if text in ("", word):
            return text
        path = text.removeprefix(prefix)
        if path == text or set(text) & set("&#% \t\n"):
            raise ValueError
        return f"{prefix}{_path_of(path)}"

    return kind


def words_or_file(*words: str) -> ValueKind[str]:
    """Return the kind of one of `words` or an absolute path; the value stays a string."""
    accepted = f"{', '.join(words)} or an absolute path"
    return _textual(accepted)(lambda text: text if text in words else str(_path_of(text)))


def _path_of(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text or ".." in path.parts:
        raise ValueError
    return path


directory: Final = _textual("an absolute path")(_path_of)
"""Paths that are set."""


@_textual("an absolute path, or empty for none")
def optional_file(text: str) -> Path | None:
    """Parse a path that may be empty, which is None."""
    return _path_of(text) if text else None


@_textual(f"an absolute path or unix:///path, of at most {SOCKET_PATH_BYTES} bytes")
def unix_socket(text: str) -> Path:
    """Parse the address of a socket: a path, or a unix:// URL as kubelet writes it."""
    path = _path_of(text.removeprefix("unix://").removeprefix("unix:"))
    if len(bytes(path)) > SOCKET_PATH_BYTES:
        raise ValueError
    return path


reference: Final = _textual("owner/name, or owner/name:7 for one generation")(references.parse)
"""Environment references."""


def url(*schemes: str) -> ValueKind[str]:
    """Return the kind of URLs with one of `schemes`; a trailing slash is removed."""
    shown = [f"{scheme}://" for scheme in schemes]
    either = " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))

    @_textual(f"a URL that begins with {either}")
    def kind(text: str) -> str:
        parts = urlsplit(text)
        # urlsplit silently strips newlines and tabs, so the text itself is matched, too
        if parts.scheme not in schemes or not _URL.fullmatch(text):
            raise ValueError
        if parts.scheme == "file":
            is_place = not parts.netloc and parts.path.startswith("/")
        else:
            is_place = bool(parts.hostname) and parts.port != 0  # reading the port validates it
        if not is_place:
            raise ValueError
        return text.rstrip("/")

    return kind


def optional_url(*schemes: str) -> ValueKind[str]:
    """Return the kind of URLs that may be empty."""
    inner = url(*schemes)
    return _textual(f"{inner.accepted}, or empty")(lambda text: text and inner.of_text(text))


@_textual("an IP address and port such as 127.0.0.1:9464, or empty")
def optional_address(text: str) -> str:
    """Parse an IP address with a port, such as `[::1]:9464`, that may be empty."""
    if not text:
        return text
    host, _, port = text.rpartition(":")
    is_v6 = host.startswith("[") and host.endswith("]")
    ipaddress.IPv6Address(host[1:-1]) if is_v6 else ipaddress.IPv4Address(host)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError
    return text


@_textual("a DNS name or IP address, optionally followed by :port")
def host(text: str) -> str:
    """Parse a DNS name or IP address with an optional port; IPv6 in brackets."""
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError
    if match["v6"]:
        ipaddress.IPv6Address(match["v6"])
    return text


@_textual("a public key in Nix's form name:base64 (32 bytes)")
def public_key(text: str) -> str:
    """Parse a Nix public key: `name:base64`, 32 bytes for Ed25519."""
    match = _PUBLIC_KEY.fullmatch(text)
    if match is None or len(base64.b64decode(match[1], validate=True)) != 32:
        raise ValueError
    return text


@_textual("an image name such as flox/empty:1.0.0, without a digest")
def image_name(text: str) -> ImageName:
    """Parse an image name with a tag (default: latest) and without a digest."""
    name = imagenames.parse(text)
    if name.digest:
        raise ValueError
    return name


def listing(element: ValueKind[T]) -> ValueKind[tuple[T, ...]]:
    """Return the kind of lists of `element`, in the order given."""

    def of_toml(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError
        return tuple(element.of_toml(each) for each in value)

    def of_text(text: str) -> tuple[T, ...]:
        return tuple(element.of_text(each) for each in _elements(text))

    return ValueKind(f"a list, each element {element.accepted}", of_toml, of_text)


def _handlers_of(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    for asked, real in value.items():
        if not _HANDLER.fullmatch(asked) or not isinstance(real, str):
            raise ValueError
        if real and not _HANDLER.fullmatch(real):
            raise ValueError
    return dict(value)


handlers: Final = ValueKind(
    'a table of handler names such as flox = "runc"; an empty name is the runtime\'s default',
    _handlers_of,
    lambda text: _handlers_of(_table_of(text)),
)
"""Tables from a RuntimeClass handler to one that the runtime has."""


def store_path_by_system(
    default: Mapping[str, str],
) -> ValueKind[Mapping[str, storepaths.StorePath]]:
    """Return the kind of tables with a store path per system; `default` fills in absent systems.

    A single store path applies to every system; empty text is the default.
    """

    def of_toml(value: object) -> Mapping[str, storepaths.StorePath]:
        if isinstance(value, str):
            return of_text(value)
        if not isinstance(value, dict) or not value.keys() <= default.keys():
            raise ValueError
        table = {**default, **value}
        return {system: _store_path.of_toml(path) for system, path in table.items()}

    def of_text(text: str) -> Mapping[str, storepaths.StorePath]:
        if text.startswith("/"):
            return of_toml(dict.fromkeys(default, text))
        return of_toml(_table_of(text))

    systems = " and ".join(default)
    return ValueKind(f"a store path, or a table of store paths for {systems}", of_toml, of_text)


_store_path: Final = _textual("a store path")(storepaths.parse)


def _elements(text: str) -> list[str]:
    return [each for each in _SEPARATOR.split(text) if each]


def _table_of(text: str) -> dict[str, str]:
    """Parse `name=value` elements into a table; raise ValueError for a repeated name."""
    table: dict[str, str] = {}
    for element in _elements(text):
        name, equals, value = element.partition("=")
        if not equals or name in table:
            raise ValueError
        table[name] = value
    return table
