"""Garbage collector roots in the node's Nix for the store paths of environments here.

A link is made before its path is fetched: Nix ignores one that leads to nothing yet, and a root
that came later could come too late. It is removed when no environment on the node has the path any
more and some time has passed, for an environment that is being made is not on the node yet.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.model.storepaths import StorePath

GRACE_SECONDS: Final = 6 * 3600.0


class Roots:
    """The links in `<state>/gcroots/cri-proxy`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.directory = state / "gcroots" / "cri-proxy"

    def add(self, paths: Iterable[StorePath]) -> None:
        """Make Nix keep paths, which need not exist yet.

        Raises RequestInvalid when Nix has no state here, or it is not ours to write to.
        """
        if not (self._state / "gcroots").is_dir() and not self._state.parent.is_dir():
            raise errors.RequestInvalid(
                f"there is no Nix at {self._state}: start it once, mount it for cri-proxy, or set "
                "store.nix_remote"
            )
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            for path in paths:  # a link that is there already is renewed
                beside = self.directory / f".{path.basename}.{os.getpid()}"
                beside.unlink(missing_ok=True)
                beside.symlink_to(str(path))
                beside.rename(self.directory / path.basename)
        except OSError as error:
            raise errors.RequestInvalid(
                f"{self.directory} cannot be written to ({error.strerror}), so Nix would collect "
                "what pods run: run cri-proxy as root, with Nix's state writable"
            ) from error

    def tidy(self, kept: Collection[str]) -> list[str]:
        """Remove roots that are not in `kept` (basenames) and not recent; return their names."""
        gone = []
        with contextlib.suppress(FileNotFoundError):
            for link in sorted(self.directory.iterdir()):
                age = time.time() - link.lstat().st_mtime
                if link.name not in kept and age > GRACE_SECONDS:
                    link.unlink(missing_ok=True)
                    gone.append(link.name)
        return gone
