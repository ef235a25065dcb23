"""A publisher of store paths: a binary cache in a directory, as Nix's own tools write it.

    nix-cache-info
    <digest>.narinfo                signed with the publisher's key
    nar/<file hash>.nar[.xz|.zst|.gz|.bz2]

Trees come from disk or from a mapping. The digests of store paths are derived from content, name
and references as in Nix, so that the same tree has the same path in every run. The directory can be
used as a cache directly (`file://`); `web` serves it over HTTP, with faults on demand.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from cri_proxy.lib import nixbase32
from cri_proxy.model.storepaths import STORE, StorePath
from cri_proxy.store import nar, narinfo, signatures
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.signatures import SecretKey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_SUFFIXES: Final = {"xz": ".xz", "zstd": ".zst", "gzip": ".gz", "bzip2": ".bz2", "none": ""}
_DIGEST_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Executable:
    """An executable file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symlink; its target may be anything but empty."""

    target: str


Node = bytes | Executable | Symlink
Files = Mapping[str, Node]
"""Files by their paths in the tree; the path of an empty directory ends with a slash."""
Tree = Path | Node | Files
"""A tree to publish: a path on disk, one file or symlink, or a directory of files."""


def write_tree(target: Path, tree: Node | Files) -> None:
    """Write a tree to `target`, which must not exist."""
    match tree:
        case bytes():
            target.write_bytes(tree)
        case Executable(data):
            target.write_bytes(data)
            target.chmod(0o755)
        case Symlink(to):
            target.symlink_to(to)
        case _:
            target.mkdir()
            for name, node in tree.items():
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name.endswith("/"):
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    write_tree(path, node)


def path_of(name: str, nar_hash: bytes, references: Iterable[StorePath] = ()) -> StorePath:
    """Return the store path that Nix gives a tree added under `name` with these references.

    Source: makeFixedOutputPath for recursive sha256, in store-api.cc of libstore.
    """
    kind = ":".join(["source", *sorted(str(each) for each in references)])
    preimage = f"{kind}:sha256:{nar_hash.hex()}:{STORE}:{name}"
    digest = bytearray(_DIGEST_BYTES)
    for index, byte in enumerate(hashlib.sha256(preimage.encode()).digest()):
        digest[index % _DIGEST_BYTES] ^= byte
    return StorePath(nixbase32.encode(bytes(digest)), name)


class Publisher:
    """Writes store paths to the cache in `directory`, signed with `key`, by default a new one."""

    def __init__(
        self, directory: Path, *, compression: str = "zstd", key: SecretKey | None = None
    ) -> None:
        self.directory = directory
        self.compression = compression
        self.key = key or signatures.generate("testbed-1")
        (directory / "nar").mkdir(parents=True, exist_ok=True)
        information = f"StoreDir: {STORE}\nWantMassQuery: 1\nPriority: 40\n"
        (directory / "nix-cache-info").write_text(information)

    @property
    def public_key(self) -> str:
        """The public key in text form, for the settings of trusted keys."""
        return str(self.key.public)

    @property
    def url(self) -> str:
        """The `file://` URL of the cache."""
        return f"file://{self.directory}"

    def add(
        self,
        name: str,
        tree: Tree,
        references: Iterable[StorePath] = (),
        *,
        refers_to_itself: bool = False,
    ) -> StorePath:
        """Publish `tree` under the path derived from its content; return that path."""
        references = tuple(references)
        with _on_disk(tree) as source:
            nar_hash, _ = nar.digest_of(source)
            path = path_of(name, nar_hash, references)
            self.publish(path, source, (*references, path) if refers_to_itself else references)
        return path

    def publish(self, path: StorePath, tree: Tree, references: Iterable[StorePath] = ()) -> NarInfo:
        """Publish `tree` as `path`, regardless of its content; return the narinfo."""
        with _on_disk(tree) as source:
            nar_hash, nar_size = nar.digest_of(source)
            archive = self._archive(source)
        with archive.open("rb") as file:
            file_hash = hashlib.file_digest(file, "sha256").digest()
        url = f"nar/{nixbase32.encode(file_hash)}.nar{_SUFFIXES[self.compression]}"
        info = NarInfo(
            path=path,
            url=url,
            compression=self.compression,
            file_hash=narinfo.hash_text(file_hash),
            file_size=archive.stat().st_size,
            nar_hash=nar_hash,
            nar_size=nar_size,
            references=tuple(sorted(set(references))),
            deriver=None,
            signatures=(),
            ca=None,
        )
        archive.rename(self.directory / url)
        info = replace(info, signatures=(signatures.sign(info, self.key),))
        self.put(info)
        return info

    def put(self, info: NarInfo) -> None:
        """Write a narinfo as it is; it may be wrong."""
        self.narinfo_file(info.path).write_text(narinfo.text_of(info))

    def narinfo(self, path: StorePath) -> NarInfo:
        """Return the narinfo of `path`."""
        return narinfo.parse(self.narinfo_file(path).read_bytes(), path)

    def narinfo_file(self, path: StorePath) -> Path:
        """Return the narinfo file of `path`."""
        return self.directory / f"{path.digest}.narinfo"

    def archive_file(self, path: StorePath) -> Path:
        """Return the archive file of `path`."""
        return self.directory / self.narinfo(path).url

    def remove(self, path: StorePath) -> None:
        """Delete the narinfo of `path`; the archive stays, because it may be shared."""
        self.narinfo_file(path).unlink()

    def _archive(self, source: Path) -> Path:
        """Write the compressed archive of `source` to a temporary file of the cache."""
        fd, name = tempfile.mkstemp(dir=self.directory / "nar", suffix=".part")
        os.fchmod(fd, 0o644)
        with ExitStack() as stack:
            file = stack.enter_context(os.fdopen(fd, "wb"))
            nar.write(source, _compressor(file, self.compression, stack))
        return Path(name)


def _compressor(file: IO[bytes], compression: str, stack: ExitStack) -> Callable[[bytes], object]:
    """Return a function that compresses bytes to `file`; closing `stack` completes the file."""
    match compression:
        case "none":
            return file.write
        case "zstd":
            return stack.enter_context(zstd.ZstdFile(file, "wb", level=3)).write
        case "xz":
            return stack.enter_context(lzma.open(file, "wb", preset=1)).write
        case "gzip":
            return stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0)).write
        case "bzip2":
            return stack.enter_context(bz2.open(file, "wb")).write
        case _:
            raise ValueError(f"unknown compression {compression!r}")


@contextmanager
def _on_disk(tree: Tree) -> Iterator[Path]:
    """Yield a tree as a path on disk."""
    if isinstance(tree, Path):
        yield tree
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "tree")
        write_tree(path, tree)
        yield path
