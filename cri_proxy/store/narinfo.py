"""Narinfos: a binary cache's description of one store path, parsed, written and fingerprinted.

A cache serves `<digest>.narinfo`, lines of `Key: value`. `parse` is strict about every known key,
because each is either followed or signed, and ignores unknown ones, because caches add their own.
`fingerprint` is the signed part: path, NAR hash, NAR size and references. The rest (URL,
compression, file hash and size, deriver) is not signed: it serves to find the archive, never to
trust it. `text_of` writes a narinfo as Nix does, to publish a path and to record one on this node.

Source of the format: nar-info.cc and path-info.cc of Nix's libstore; Nix manual, "Binary cache".
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import nixbase32
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath

TEXT_BYTES: Final = 1024 * 1024
"""Longest narinfo that is accepted: some 15,000 references."""

_SIZE_LIMIT: Final = 2**63
_DEFAULT_COMPRESSION: Final = "bzip2"
_KNOWN: Final = frozenset(
    {"StorePath", "URL", "Compression", "FileHash", "FileSize"}
    | {"NarHash", "NarSize", "References", "Deriver", "CA"}
)
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_COMPRESSION: Final = re.compile(r"[a-z0-9]{1,16}")
_URL: Final = re.compile(r"[!-~]+")
_UNKNOWN_DERIVER: Final = "unknown-deriver"


@dataclass(frozen=True, slots=True)
class NarInfo:
    """The description of one store path.

    `url` is relative to the cache. `nar_hash` is sha256, 32 bytes. `references` are sorted and may
    include the path itself. `file_hash`, `deriver`, `signatures` and `ca` are as in the text.
    """

    path: StorePath
    url: str
    compression: str
    file_hash: str | None
    file_size: int | None
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: str | None
    signatures: tuple[str, ...]
    ca: str | None


def parse(text: bytes, expected: StorePath) -> NarInfo:
    """Parse the narinfo of `expected`; raise ContentDamaged for a malformed or another one."""
    try:
        fields, signatures = _fields(text)
        path = storepaths.parse(_required(fields, "StorePath"))
        if path != expected:
            raise ValueError(f"it describes {path}")
        compression = fields.get("Compression", _DEFAULT_COMPRESSION)
        if not _COMPRESSION.fullmatch(compression):  # unknown ones are refused on use
            raise ValueError(f"{compression[:100]!a} is not a compression name")
        file_size = fields.get("FileSize")
        deriver = fields.get("Deriver", _UNKNOWN_DERIVER)
        is_derived = deriver != _UNKNOWN_DERIVER
        references = _required(fields, "References").split(" ")
        return NarInfo(
            path=path,
            url=_relative_url(_required(fields, "URL")),
            compression=compression,
            file_hash=fields.get("FileHash"),
            file_size=None if file_size is None else _size(file_size, "FileSize", least=0),
            nar_hash=hash_of(_required(fields, "NarHash")),
            nar_size=_size(_required(fields, "NarSize"), "NarSize", least=1),
            references=tuple(sorted({storepaths.of_basename(each) for each in references if each})),
            deriver=storepaths.of_basename(deriver).basename if is_derived else None,
            signatures=signatures,
            ca=fields.get("CA"),
        )
    except (ValueError, errors.RequestInvalid) as error:
        raise errors.ContentDamaged(
            f"the narinfo of {expected} is damaged: {error}; fix the cache, or use another one"
        ) from None


def text_of(narinfo: NarInfo) -> str:
    """Return the narinfo's text in Nix's format, with a final newline."""
    fields: list[tuple[str, object]] = [
        ("StorePath", narinfo.path),
        ("URL", narinfo.url),
        ("Compression", narinfo.compression),
        ("FileHash", narinfo.file_hash),
        ("FileSize", narinfo.file_size),
        ("NarHash", hash_text(narinfo.nar_hash)),
        ("NarSize", narinfo.nar_size),
        ("References", " ".join(each.basename for each in narinfo.references)),
        ("Deriver", narinfo.deriver),
        *(("Sig", signature) for signature in narinfo.signatures),
        ("CA", narinfo.ca),
    ]
    return "".join(f"{key}: {value}\n" for key, value in fields if value is not None)


def fingerprint(narinfo: NarInfo) -> bytes:
    """Return the bytes that a signature of this narinfo covers."""
    references = ",".join(str(reference) for reference in narinfo.references)
    nar_hash = hash_text(narinfo.nar_hash)
    return f"1;{narinfo.path};{nar_hash};{narinfo.nar_size};{references}".encode()


@functools.lru_cache(maxsize=4096)
def hash_text(sha256: bytes) -> str:
    """Return a sha256 in the form of narinfos: `sha256:` and 52 digits of Nix's base 32."""
    return f"sha256:{nixbase32.encode(sha256)}"


def hash_of(text: str) -> bytes:
    """Return the 32 bytes of a sha256 in base 32, base 16 (`sha256:…`) or SRI (`sha256-…`)."""
    algorithm, digits = text[:7], text[7:]
    try:
        match algorithm, len(digits):
            case "sha256:", 52:
                return nixbase32.decode(digits)
            case "sha256:", 64:
                return binascii.unhexlify(digits)
            case "sha256-", 44:
                data = base64.b64decode(digits, validate=True)
                if len(data) == 32:
                    return data
    except ValueError:
        pass
    raise ValueError(f"{text[:100]!a} is not a sha256 in base 32, base 16 or SRI form")


def _fields(text: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the known single-valued fields and the signatures; check the syntax of all lines."""
    if len(text) > TEXT_BYTES:
        raise ValueError(f"it is longer than {TEXT_BYTES} bytes")
    *lines, rest = text.decode().split("\n")
    if rest:
        raise ValueError("its last line has no newline")
    fields: dict[str, str] = {}
    signatures = []
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or not _KEY.fullmatch(key):
            raise ValueError(f"{line[:100]!a} is not a line of the form Key: value")
        if not value.startswith(" ") and value:
            raise ValueError(f"{line[:100]!a} has no space after the colon")
        value = value[1:]
        if key == "Sig":
            signatures.append(value)
        elif key in fields:
            raise ValueError(f"it has more than one {key}")
        elif key in _KNOWN:
            fields[key] = value
    return fields, tuple(signatures)


def _required(fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise ValueError(f"it has no {key}")
    return fields[key]


def _relative_url(url: str) -> str:
    """Return `url`, or raise ValueError unless it stays within its cache.

    Nix follows absolute URLs as well. But no signature covers the URL, and credentials are meant
    for the configured cache: to serve archives from elsewhere, a cache can redirect.
    """
    path, _, _ = url.partition("?")
    decoded = urllib.parse.unquote(path)
    components = decoded.split("/")
    is_within = not {"", ".", ".."} & set(components) and ":" not in components[0]
    if not _URL.fullmatch(url) or not is_within or set(decoded) & set("\\#\0"):
        raise ValueError(f"its URL {url[:200]!a} is not a path within the cache")
    return url


def _size(text: str, key: str, *, least: int) -> int:
    if not _DECIMAL.fullmatch(text) or not least <= int(text) < _SIZE_LIMIT:
        raise ValueError(f"its {key} {text[:100]!a} is not a size")
    return int(text)
