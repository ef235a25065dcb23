"""A node's Nix for the proxy to use: the machine's programs, and a store of its own.

`TESTBED_NIX` names a directory with another nix-store, such as `hack/newest-nix.sh` makes.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

from cri_proxy.model.storepaths import StorePath

VARIABLE: Final = "TESTBED_NIX"
_COMMAND_SECONDS: Final = 120


class NodeNix:
    """Nix with its store below `root`; whoever uses it needs `environment` as well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "nix.conf").write_text("build-users-group =\nsandbox = false\n")
        (root / "nix" / "var" / "nix").mkdir(parents=True, exist_ok=True)
        self.environment = {"NIX_CONF_DIR": str(root / "etc")}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `store` that lead here."""
        directory = os.environ.get(VARIABLE, "")
        return {"kind": "nix", "nix_remote": self.remote, "nix_directory": directory}

    @property
    def remote(self) -> str:
        """Its store as NIX_REMOTE names it."""
        return f"local?root={self.root}"

    @property
    def roots(self) -> Path:
        """Where what it must keep for the proxy stands."""
        return self.root / "nix/var/nix/gcroots/cri-proxy"

    def physical(self, path: StorePath) -> Path:
        """Return where a store path is on disk."""
        return Path(f"{self.root}{path}")

    def run(self, *arguments: str) -> str:
        """Run nix-store on it; return what it prints."""
        program = Path(os.environ.get(VARIABLE) or "/usr/bin", "nix-store")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "NIX_REMOTE": self.remote,
            **self.environment,
        }
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=True,
        )
        return done.stdout
