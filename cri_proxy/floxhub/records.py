"""The node's memory of FloxHub, on disk.

    <directory>/
      key                               32 random bytes, made once; names callers below
      heads/<owner>/<name>/<caller>     {"revision", "seen_at"}: the head last shown to that caller;
                                        {"stale"}: lockfiles given from memory since then
      published/<caller>                {"seen_at"}: that caller was given these published packages
      revisions/<commit>/metadata       {"live", "generations"}: the metadata in that commit
      revisions/<commit>/<generation>   {"lock"}: the digest of that generation's lockfile
      locks/<sha256>.lock               lockfiles by their digest

A caller is a token, or none: `public`, or the HMAC of environment and token under the node's key,
so that no token is on disk, and the names that one token has for two environments have nothing in
common. For published packages it is the HMAC of their paths and token. Heads and published packages
are kept per caller because they are permissions: that FloxHub showed something to one token does
not mean that it would show it to another. Revisions and lockfiles are facts, named by their
content, and shared.

Every file is written beside its place and renamed into it, without fsync: each is checked when it
is read, and one that is damaged counts as absent, to be fetched again. So processes and threads
share a directory without locks; a record that is lost to a race costs one fetch.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from cri_proxy import errors
from cri_proxy.floxhub import lockfile
from cri_proxy.floxhub.metadata import Metadata
from cri_proxy.lib import codec, durable
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath

PUBLIC: Final = "public"
"""The caller that has no token."""

ACCEPTED_SECONDS: Final = 30 * 24 * 3600
"""How long an accepted token counts without FloxHub: as long as FloxHub's own tokens live."""

_HEADS: Final = "heads"
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_KEY_BYTES: Final = 32
_ATTEMPTS: Final = 8
_SMALL_FILE_LIMIT: Final = 16 * 1024 * 1024

T = TypeVar("T")
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Head(msgspec.Struct, frozen=True, omit_defaults=True):
    revision: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40}\Z")]
    seen_at: int
    stale: tuple[_Digest, ...] = ()


class _Given(msgspec.Struct, frozen=True):
    seen_at: int


class _Generation(msgspec.Struct, frozen=True):
    lock: _Digest


@dataclass(frozen=True, slots=True)
class StoredLockfile:
    """A lockfile on this node, and the SHA-256 of its bytes in hexadecimal."""

    digest: str
    file: Path


class Records:
    """The directory of one node; made on first use, for root only."""

    def __init__(self, directory: Path) -> None:
        self._heads = directory / _HEADS
        self._published = directory / "published"
        self._revisions = directory / "revisions"
        self._locks = directory / "locks"
        with _writing(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = _key(directory / "key")

    def caller_of(self, reference: Reference, token: str | None) -> str:
        """Return the name under which this environment's heads are kept for a token."""
        if token is None:
            return PUBLIC
        return self._name_of(f"{reference.owner}/{reference.name}\0{token}")

    def head(self, reference: Reference, caller: str) -> str | None:
        """Return the revision last shown to the caller, None if never or too long ago.

        What is public is remembered without a limit; a token's permission expires after
        ACCEPTED_SECONDS.
        """
        head = _load(self._head_file(reference, caller), _Head)
        if head is None or (caller != PUBLIC and _has_expired(head.seen_at)):
            return None
        return head.revision

    def keep_head(self, reference: Reference, caller: str, revision: str) -> None:
        """Record that FloxHub has just shown this head to the caller."""
        _place(self._head_file(reference, caller), codec.encode(_Head(revision, int(time.time()))))

    def forget_head(self, reference: Reference, caller: str) -> None:
        """Record that FloxHub has just refused the caller."""
        self._head_file(reference, caller).unlink(missing_ok=True)

    def mark_stale(self, reference: Reference, caller: str, lock_digest: str) -> None:
        """Record that this lockfile was given to the caller from memory; `keep_head` ends that."""
        file = self._head_file(reference, caller)
        head = _load(file, _Head)
        if head is not None and lock_digest not in head.stale:
            marked = _Head(head.revision, head.seen_at, (*head.stale, lock_digest))
            _place(file, codec.encode(marked))

    def was_given(self, paths: Iterable[StorePath], token: str | None) -> bool:
        """Return whether the token was given these published packages, not too long ago."""
        given = _load(self._published / self._caller_of_paths(paths, token), _Given)
        return given is not None and (token is None or not _has_expired(given.seen_at))

    def note_given(self, paths: Iterable[StorePath], token: str | None, *, is_given: bool) -> None:
        """Record that the token has just been given these packages, or refused them."""
        file = self._published / self._caller_of_paths(paths, token)
        if is_given:
            _place(file, codec.encode(_Given(int(time.time()))))
        else:
            file.unlink(missing_ok=True)

    def metadata(self, revision: str) -> Metadata | None:
        """Return the metadata of a commit."""
        file = self._revisions / revision / "metadata"
        found = _load(file, Metadata)
        if found is not None:
            _touch(file)
        return found

    def keep_metadata(self, revision: str, metadata: Metadata) -> None:
        """Keep the metadata of a commit."""
        _place(self._revisions / revision / "metadata", codec.encode(metadata))

    def lock(self, revision: str, generation: int) -> StoredLockfile | None:
        """Return a generation's lockfile, whose bytes have just been found to have its digest."""
        record = self._revisions / revision / str(generation)
        known = _load(record, _Generation)
        if known is None or not self._is_kept(known.lock):
            return None
        file = self._lock_file(known.lock)
        _touch(record)
        _touch(file)
        return StoredLockfile(known.lock, file)

    def keep_lock(self, revision: str, generation: int, content: bytes) -> None:
        """Keep a generation's lockfile."""
        digest = hashlib.sha256(content).hexdigest()
        if not self._is_kept(digest):
            _place(self._lock_file(digest), content)
        _place(self._revisions / revision / str(generation), codec.encode(_Generation(digest)))

    def drop_older_than(self, seconds: float) -> int:
        """Remove what was not used for `seconds`; return how many files that were."""
        horizon = time.time() - seconds
        dropped = 0
        kept = (self._heads, self._published, self._revisions, self._locks)
        for file in [each for directory in kept for each in directory.rglob("*")]:
            if not file.is_file():
                continue
            try:
                if file.stat().st_mtime >= horizon:
                    continue
                file.unlink()
            except FileNotFoundError:
                continue
            dropped += 1
            with suppress(OSError):
                file.parent.rmdir()  # succeeds when that was the last file in there
        return dropped

    def _caller_of_paths(self, paths: Iterable[StorePath], token: str | None) -> str:
        listed = " ".join(sorted(each.basename for each in paths))
        return self._name_of(f"{listed}\0{token or ''}")

    def _name_of(self, secret: str) -> str:
        return hmac.digest(self._key, secret.encode(), "sha256").hex()

    def _is_kept(self, digest: str) -> bool:
        """Return whether the lockfile of a digest is on disk, undamaged."""
        content = _read(self._lock_file(digest), lockfile.SIZE_LIMIT)
        return content is not None and hashlib.sha256(content).hexdigest() == digest

    def _lock_file(self, digest: str) -> Path:
        return self._locks / f"{digest}.lock"

    def _head_file(self, reference: Reference, caller: str) -> Path:
        return self._heads / reference.owner / reference.name / caller


def stale_locks(directory: Path) -> frozenset[tuple[str, str, str]]:
    """Return owner, name and lockfile digest of what some caller was last given from memory.

    For listings of environments: only reads, and creates no directory.
    """
    found: set[tuple[str, str, str]] = set()
    for file in (directory / _HEADS).glob("*/*/*"):
        if (head := _load(file, _Head)) is not None:
            owner, name = file.parts[-3:-1]
            found.update((owner, name, each) for each in head.stale)
    return frozenset(found)


def _has_expired(seen_at: int) -> bool:
    return time.time() - seen_at > ACCEPTED_SECONDS


def _key(file: Path) -> bytes:
    """Return the node's key; of several processes that create it at once, one succeeds."""
    for _ in range(3):
        found = _read(file, _SMALL_FILE_LIMIT)
        if found is not None and len(found) == _KEY_BYTES:
            return found
        if found is not None:
            file.unlink(missing_ok=True)
        made = file.with_name(f".key.{secrets.token_hex(8)}")
        durable.write(made, secrets.token_bytes(_KEY_BYTES), mode=0o600, is_synced=False)
        with suppress(FileExistsError):
            file.hardlink_to(made)
        made.unlink()
    raise errors.InternalFault(f"{file} changes while it is read: remove it and start again")


def _load(file: Path, kind: type[T]) -> T | None:
    """Return the record in a small JSON file, or None when it is absent or damaged."""
    content = _read(file, _SMALL_FILE_LIMIT)
    try:
        return None if content is None else codec.decode(content, kind)
    except ValueError:
        return None


def _read(file: Path, limit: int) -> bytes | None:
    """Return a file's bytes, None when it is absent or larger than `limit`.

    Reads one byte beyond the limit at most, so that a file of any size costs bounded memory.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content if len(content) <= limit else None


def _place(file: Path, content: bytes) -> None:
    """Put a file in place atomically, even if other processes do the same."""
    with _writing(file):
        for attempt in range(_ATTEMPTS):
            try:
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                durable.write(file, content, mode=0o600, is_synced=False)
                break
            except (FileNotFoundError, FileExistsError):
                # Another process has just removed the directory because it was empty: before it was
                # written to, or while mkdir checked whether an existing one is a directory.
                if attempt == _ATTEMPTS - 1:
                    raise


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Raise NodeExhausted for errors of writing."""
    try:
        yield
    except OSError as error:
        advice = (
            "run cri-proxy as root, and see that the file system is not read-only"
            if error.errno in _FORBIDDEN
            else "check the file system's space"
        )
        raise errors.NodeExhausted(
            f"{place} cannot be written ({error.strerror}): {advice}"
        ) from error


def _touch(file: Path) -> None:
    """Mark a file as used; it may be gone by now."""
    with suppress(FileNotFoundError):
        os.utime(file)
