"""Kinds of values: what a key accepts, told in words and as two parsers.

A value comes in one of two forms: as TOML gave it (text, number, list, table) or as text from the
environment or a flag. A kind turns both into the value that the program uses, and raises
ValueError for anything else, without a message: the refusal is worded by `sources`, which knows
where the value stood, from the kind's `accepted`.

In text form the elements of a list stand between commas or spaces, those of a table are written
`name=value`.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from cri_proxy import errors
from cri_proxy.model import imagenames, references, storepaths
from cri_proxy.model.imagenames import ImageName
from cri_proxy.model.references import Reference

SOCKET_PATH_BYTES: Final = 107
"""The longest path that fits Linux's sockaddr_un, without its closing NUL."""

_SEPARATOR: Final = re.compile(r"[,\s]+")
# Neither queries nor fragments: paths are put behind it. A comma would end it in a list.
_URL: Final = re.compile(r"[^\x00-\x20\"#,<>?\x7f-\U0010ffff]+")
_HANDLER: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_HOST: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?|\[(?P<v6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{1,5}))?"
)
_PUBLIC_KEY: Final = re.compile(r"[A-Za-z0-9._-]+:([A-Za-z0-9+/]{43}=)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValueKind(Generic[T]):
    """What one key accepts: `accepted` completes the sentence "must be …"."""

    accepted: str
    of_toml: Callable[[object], T]
    of_text: Callable[[str], T]


def whole(low: int, high: int) -> ValueKind[int]:
    """Return the kind of whole numbers within bounds, both included."""

    def of_toml(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return ValueKind(
        f"a whole number from {low} to {high}", of_toml, lambda text: of_toml(int(text))
    )


def seconds(low: float, high: float) -> ValueKind[float]:
    """Return the kind of durations within bounds, both included; fractions are welcome."""

    def of_toml(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return float(value)

    accepted = f"a number of seconds from {low:g} to {high:g}"
    return ValueKind(accepted, of_toml, lambda text: of_toml(float(text)))


def share() -> ValueKind[float]:
    """Return the kind of parts of a whole, from nothing to all of it."""
    inner = seconds(0, 1)
    return ValueKind("a number from 0 to 1", inner.of_toml, inner.of_text)


def choice(*words: str) -> ValueKind[str]:
    """Return the kind of a few words."""

    def of_text(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return _textual(f"one of {', '.join(words)}", of_text)


def choice_or(word: str, prefix: str) -> ValueKind[str]:
    """Return the kind of one word, a prefix with an absolute path behind it, or nothing."""

    def of_text(text: str) -> str:
        if text in ("", word):
            return text
        path = text.removeprefix(prefix)
        if path == text or set(text) & set("&#% \t\n"):
            raise ValueError
        return f"{prefix}{_path_of(path)}"

    return _textual(f"{word}, {prefix}/directory, or empty", of_text)


def directory() -> ValueKind[Path]:
    """Return the kind of absolute paths."""
    return _textual("an absolute path", _path_of)


def optional_file() -> ValueKind[Path | None]:
    """Return the kind of absolute paths that may be left empty, which reads as None."""
    return _textual(
        "an absolute path, or empty for none", lambda text: _path_of(text) if text else None
    )


def words_or_file(*words: str) -> ValueKind[str]:
    """Return the kind of a few words or an absolute path, whose text it keeps."""

    def of_text(text: str) -> str:
        return text if text in words else str(_path_of(text))

    return _textual(f"{', '.join(words)} or an absolute path", of_text)


def unix_socket() -> ValueKind[Path]:
    """Return the kind of Unix socket addresses: a path, or gRPC's and kubelet's unix:// form."""

    def of_text(text: str) -> Path:
        path = _path_of(text.removeprefix("unix://").removeprefix("unix:"))
        if len(bytes(path)) > SOCKET_PATH_BYTES:
            raise ValueError
        return path

    return _textual(
        f"an absolute path or unix:///path, of at most {SOCKET_PATH_BYTES} bytes", of_text
    )


def reference() -> ValueKind[Reference]:
    """Return the kind of references to environments."""

    def of_text(text: str) -> Reference:
        try:
            return references.parse(text)
        except errors.RequestInvalid:
            raise ValueError from None

    return _textual("owner/name, or owner/name:7 for one generation", of_text)


def url(*schemes: str) -> ValueKind[str]:
    """Return the kind of URLs of some schemes; a slash at the end is taken off."""

    def of_text(text: str) -> str:
        parts = urlsplit(text)
        # urlsplit strips line ends and tabs silently.
        if parts.scheme not in schemes or not _URL.fullmatch(text):
            raise ValueError
        if parts.scheme == "file":
            is_place = not parts.netloc and parts.path.startswith("/")
        else:
            is_place = bool(parts.hostname) and parts.port != 0  # asking for the port parses it
        if not is_place:
            raise ValueError
        return text.rstrip("/")

    return _textual(f"a URL that begins with {_either(schemes)}", of_text)


def optional_url(*schemes: str) -> ValueKind[str]:
    """Return the kind of URLs that may be left empty."""
    inner = url(*schemes)
    return _textual(f"{inner.accepted}, or empty", lambda text: inner.of_text(text) if text else "")


def optional_address() -> ValueKind[str]:
    """Return the kind of IP addresses with a port, such as `[::1]:9464`, that may be left empty."""

    def of_text(text: str) -> str:
        if not text:
            return text
        host, _, port = text.rpartition(":")
        is_v6 = host.startswith("[") and host.endswith("]")
        ipaddress.IPv6Address(host[1:-1]) if is_v6 else ipaddress.IPv4Address(host)
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError
        return text

    return _textual("an IP address and port such as 127.0.0.1:9464, or empty", of_text)


def host() -> ValueKind[str]:
    """Return the kind of DNS names and IP addresses, with a port or without; IPv6 in brackets."""

    def of_text(text: str) -> str:
        match = _HOST.fullmatch(text)
        if match is None or int(match["port"] or 1) not in range(1, 65536):
            raise ValueError
        if match["v6"]:
            ipaddress.IPv6Address(match["v6"])
        return text

    return _textual("a DNS name or IP address, with :port or without", of_text)


def public_key() -> ValueKind[str]:
    """Return the kind of Nix's public keys, `name:base64` with 32 bytes of Ed25519."""

    def of_text(text: str) -> str:
        match = _PUBLIC_KEY.fullmatch(text)
        if match is None or len(base64.b64decode(match[1], validate=True)) != 32:
            raise ValueError
        return text

    return _textual("a public key name:base64 as Nix writes it (32 bytes)", of_text)


def listing(element: ValueKind[T]) -> ValueKind[tuple[T, ...]]:
    """Return the kind of lists of `element`; the order is kept."""

    def of_toml(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError
        return tuple(element.of_toml(each) for each in value)

    def of_text(text: str) -> tuple[T, ...]:
        return tuple(element.of_text(each) for each in _elements(text))

    return ValueKind(f"a list, each element {element.accepted}", of_toml, of_text)


def handlers() -> ValueKind[Mapping[str, str]]:
    """Return the kind of tables from a RuntimeClass's handler to the runtime's own handler."""

    def of_toml(value: object) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise ValueError
        for asked, real in value.items():
            if not _HANDLER.fullmatch(asked) or not isinstance(real, str):
                raise ValueError
            if real and not _HANDLER.fullmatch(real):
                raise ValueError
        return dict(value)

    return ValueKind(
        'a table of handler names such as flox = "runc", an empty one for the runtime\'s default',
        of_toml,
        lambda text: of_toml(_table_of(text)),
    )


def image_name() -> ValueKind[ImageName]:
    """Return the kind of names of images, with a tag (left out, it is latest) and no digest."""

    def of_text(text: str) -> ImageName:
        try:
            name = imagenames.parse(text)
        except errors.RequestInvalid:
            raise ValueError from None
        if name.digest:
            raise ValueError
        return name

    return _textual("an image's name such as flox/empty:1.0.0, without a digest", of_text)


def store_path_by_system(
    default: Mapping[str, str],
) -> ValueKind[Mapping[str, storepaths.StorePath]]:
    """Return the kind of one store path per system of `default`, which fills what is left out.

    One store path alone stands for every system, empty text for the default.
    """

    def of_toml(value: object) -> Mapping[str, storepaths.StorePath]:
        if isinstance(value, str):
            return of_text(value)
        if not isinstance(value, dict) or not value.keys() <= default.keys():
            raise ValueError
        return {system: _store_path_of(path) for system, path in {**default, **value}.items()}

    def of_text(text: str) -> Mapping[str, storepaths.StorePath]:
        if text.startswith("/"):
            return of_toml(dict.fromkeys(default, text))
        return of_toml(_table_of(text))

    systems = " and ".join(default)
    return ValueKind(f"a store path, or a table of store paths for {systems}", of_toml, of_text)


def _textual(accepted: str, of_text: Callable[[str], T]) -> ValueKind[T]:
    """Return a kind whose TOML form is the text form."""

    def of_toml(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError
        return of_text(value)

    return ValueKind(accepted, of_toml, of_text)


def _path_of(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text or ".." in path.parts:
        raise ValueError
    return path


def _store_path_of(value: object) -> storepaths.StorePath:
    if not isinstance(value, str):
        raise ValueError
    try:
        return storepaths.parse(value)
    except errors.RequestInvalid:
        raise ValueError from None


def _elements(text: str) -> list[str]:
    return [each for each in _SEPARATOR.split(text) if each]


def _table_of(text: str) -> dict[str, str]:
    """Return the table that `name=value` elements write; a name given twice is refused."""
    table: dict[str, str] = {}
    for element in _elements(text):
        name, equals, value = element.partition("=")
        if not equals or name in table:
            raise ValueError
        table[name] = value
    return table


def _either(schemes: tuple[str, ...]) -> str:
    """Return `https://, http:// or file://`."""
    shown = [f"{scheme}://" for scheme in schemes]
    return " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
