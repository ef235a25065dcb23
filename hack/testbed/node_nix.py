"""A node's Nix that the proxy uses: the machine's programs with a private store.

`TESTBED_NIX` names a directory with another nix-store, for example from `hack/newest-nix.sh`.
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
    """Nix with its store below `root`; its users also need the variables in `environment`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "nix.conf").write_text("build-users-group =\nsandbox = false\n")
        (root / "nix" / "var" / "nix").mkdir(parents=True, exist_ok=True)
        self.environment = {"NIX_CONF_DIR": str(root / "etc")}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the section `store` that select it."""
        directory = os.environ.get(VARIABLE, "")
        return {"kind": "nix", "nix_remote": self.remote, "nix_directory": directory}

    @property
    def remote(self) -> str:
        """The value of NIX_REMOTE for its store."""
        return f"local?root={self.root}"

    @property
    def roots(self) -> Path:
        """The directory of the proxy's garbage collector roots."""
        return self.root / "nix/var/nix/gcroots/cri-proxy"

    def physical(self, path: StorePath) -> Path:
        """Return the place of a store path on disk."""
        return Path(f"{self.root}{path}")

    def run(self, *arguments: str) -> str:
        """Run nix-store on it; return its output."""
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
