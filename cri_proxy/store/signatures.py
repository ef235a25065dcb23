"""Ed25519 signatures of store paths: making them, and verifying them with trusted keys.

A publisher signs the fingerprint of a narinfo and adds `name:<signature>` to it. This node trusts a
path if a key of its keyring made one of its signatures. Keys have Nix's format, `name:<base64>`: 32
bytes for a public key, 64 for a secret one (seed, then public key), so keys that Nix has generated
or trusts can be used unchanged.

Only the keyring counts: a path without a valid signature is not trusted, even if it is
content-addressed or comes from the node owner's own cache. Signatures are verified by libsodium, as
in Nix.

Source of the format: crypto.cc of Nix's libstore; Nix manual, "nix key".
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from cri_proxy import errors
from cri_proxy.store import narinfo
from cri_proxy.store.narinfo import NarInfo

_PUBLIC_BYTES: Final = 32
_SEED_BYTES: Final = 32
_SECRET_BYTES: Final = _SEED_BYTES + _PUBLIC_BYTES
_SIGNATURE_BYTES: Final = 64
_REMEMBERED: Final = 16_384
"""Verified narinfos that a keyring caches: each is verified before and after its download."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; `str()` is its form in settings, `name:<base64>`."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return _text_of(self.name, self.data)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A secret key; `text` contains the secret, `str()` and `repr()` do not."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The matching public key."""
        return PublicKey(self.name, bytes(SigningKey(self.seed).verify_key))

    @property
    def text(self) -> str:
        """The key file's text in Nix's format, which contains the secret."""
        return _text_of(self.name, self.seed + self.public.data)


def parse_public(text: str) -> PublicKey:
    """Parse `name:<base64>`; raise RequestInvalid if it is not a public key."""
    named = _named(text, _PUBLIC_BYTES)
    if named is None:
        raise errors.RequestInvalid(
            f"{text[:200]!a} is not a public key: write name:base64 as in Nix's trusted-public-keys"
        )
    return PublicKey(*named)


def parse_secret(text: str) -> SecretKey:
    """Parse a key file's text; raise RequestInvalid, without the text, if it is no secret key."""
    named = _named(text.strip(), _SECRET_BYTES)
    if named is not None:
        name, data = named
        key = SecretKey(name, data[:_SEED_BYTES])
        if key.public.data == data[_SEED_BYTES:]:
            return key
    raise errors.RequestInvalid(
        "a secret key must be name:base64 of a seed and its public key: "
        "make one with nix-store --generate-binary-cache-key"
    )


def generate(name: str) -> SecretKey:
    """Return a new secret key."""
    return SecretKey(name, bytes(SigningKey.generate()))


def sign(info: NarInfo, key: SecretKey) -> str:
    """Return the signature of `info` by `key`, for its `signatures`."""
    return _text_of(key.name, SigningKey(key.seed).sign(narinfo.fingerprint(info)).signature)


class Keyring:
    """The trusted public keys; several may share a name while a key is being rotated."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys: dict[str, list[VerifyKey]] = {}
        for key in keys:
            self._keys.setdefault(key.name, []).append(VerifyKey(key.data))
        self._verified: dict[bytes, str] = {}

    def verify(self, info: NarInfo) -> str:
        """Return the name of a trusted key that signed `info`, or raise SignatureUntrusted."""
        message = narinfo.fingerprint(info)
        key = hashlib.sha256("\0".join(info.signatures).encode() + b"\0" + message).digest()
        if (known := self._verified.get(key)) is not None:
            return known
        signer = self._signer_of(info, message)
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[key] = signer
        return signer

    def _signer_of(self, info: NarInfo, message: bytes) -> str:
        for signature in info.signatures:
            name, data = _named(signature, _SIGNATURE_BYTES) or ("", b"")
            for key in self._keys.get(name, ()):
                with contextlib.suppress(BadSignatureError):
                    key.verify(message, data)
                    return name
        raise self._refusal(info)

    def _refusal(self, info: NarInfo) -> errors.SignatureUntrusted:
        """Return the error, which distinguishes a forged signature from one by an unknown key."""
        trusted = ", ".join(sorted(self._keys)) or "none"
        signers = {signature.partition(":")[0] for signature in info.signatures}
        false = sorted(signers & self._keys.keys())
        if false:
            return errors.SignatureUntrusted(
                f"{info.path} has a signature by {', '.join(false)} that does not verify: "
                "sign the path again, or correct the trusted key of that name"
            )
        shown = ", ".join(ascii(name[:80])[1:-1] for name in sorted(signers)[:8])
        return errors.SignatureUntrusted(
            f"{info.path} is signed by {shown or 'no key'}, and the trusted keys are "
            f"{trusted}: trust a key that signs it, or sign the path"
        )


def _named(text: str, size: int) -> tuple[str, bytes] | None:
    """Return name and data of `name:<base64>`, or None unless the data has `size` bytes."""
    name, colon, encoded = text.partition(":")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return (name, data) if name and colon and len(data) == size else None


def _text_of(name: str, data: bytes) -> str:
    return f"{name}:{base64.b64encode(data).decode()}"
