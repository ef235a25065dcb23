"""The machine's nix commands with a private store, configuration and home below one directory.

    <root>/chroot/nix/store/    its store paths (whose names still begin with /nix/store)
    <root>/chroot/nix/var/      its database
    <root>/home/                caches, channels

The machine's own Nix store is neither read nor written. For tests of compatibility with Nix, and
for benchmarks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath

_SETTINGS: Final = {
    "experimental-features": "nix-command",
    "build-users-group": "",
    "substituters": "",
    "sandbox": "false",
    "connect-timeout": "10",
    "download-attempts": "1",
    "narinfo-cache-negative-ttl": "0",
}
_COMMAND_SECONDS: Final = 150
_EXPORT_MAGIC: Final = 0x4558494E


class Nix:
    """The nix commands with the store below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("chroot", "home", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def run(
        self, *argv: str | Path, stdin: bytes = b"", settings: Mapping[str, str] | None = None
    ) -> bytes:
        """Run a nix command with these settings besides ours; return its output.

        Raises subprocess.CalledProcessError, with its stderr as a note.
        """
        merged = _SETTINGS | dict(settings or {})
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "LC_ALL": "C.UTF-8",
            "NIX_CONF_DIR": str(self.root / "etc"),
            "NIX_CONFIG": "\n".join(f"{name} = {value}" for name, value in merged.items()),
            "NIX_REMOTE": f"local?root={self.root / 'chroot'}",
        }
        finished = subprocess.run(
            argv,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        try:
            finished.check_returncode()
        except subprocess.CalledProcessError as error:
            error.add_note(finished.stderr.decode(errors="replace"))
            raise
        return finished.stdout

    def physical(self, path: StorePath) -> Path:
        """Return the place of the store path on disk."""
        return Path(f"{self.root}/chroot{path}")

    def add(self, tree: Path) -> StorePath:
        """Add a tree without references under its own name; Nix computes the digest."""
        return storepaths.parse(self.run("nix-store", "--add", tree).decode().strip())

    def register(self, path: StorePath, tree: Path, references: Iterable[StorePath] = ()) -> None:
        """Add a tree as the valid path `path` with these references, as if it had been built.

        Nix makes the archive and the hash; we add the format of `nix-store --export`
        (export-import.cc of libstore): the archive, a magic number, path, references, no deriver.
        """
        listed = [str(reference) for reference in references]
        stream = [
            _number(1),
            self.run("nix-store", "--dump", tree),
            _number(_EXPORT_MAGIC),
            _string(str(path)),
            _number(len(listed)),
            *(_string(reference) for reference in listed),
            _string(""),
            _number(0),
            _number(0),
        ]
        self.run("nix-store", "--import", stdin=b"".join(stream))

    def copy_to(
        self, directory: Path, paths: Iterable[StorePath], *, compression: str, key: str
    ) -> None:
        """Copy the closure of `paths` to a binary cache directory, signed with the secret `key`."""
        key_file = self.root / "etc" / "key"
        key_file.write_text(key)
        cache = f"file://{directory}?compression={compression}&secret-key={key_file}"
        self.run("nix", "copy", "--to", cache, *(str(path) for path in paths))

    def realise(
        self, paths: Iterable[StorePath], *, cache: str, public_key: str, jobs: int = 8
    ) -> None:
        """Fetch the closure of `paths` from `cache`, with signatures by `public_key` required."""
        self.run(
            "nix-store",
            "--realise",
            *(str(path) for path in paths),
            settings={
                "substituters": cache,
                "trusted-public-keys": public_key,
                "require-sigs": "true",
                "max-jobs": str(jobs),
            },
        )

    def references(self, path: StorePath) -> tuple[StorePath, ...]:
        """Return the references of `path` in Nix's database."""
        lines = self.run("nix-store", "--query", "--references", str(path)).decode().split()
        return tuple(sorted(storepaths.parse(line) for line in lines))


def _number(value: int) -> bytes:
    """Encode a number for Nix's formats."""
    return value.to_bytes(8, "little")


def _string(text: str) -> bytes:
    """Encode a string for Nix's formats."""
    data = text.encode()
    return _number(len(data)) + data + bytes(-len(data) % 8)
