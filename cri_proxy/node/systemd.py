"""systemd on the node that runs; on a node's image there is nobody to tell, so nothing is done."""

from __future__ import annotations

import subprocess
from typing import Final

from cri_proxy import errors
from cri_proxy.node import units
from cri_proxy.node.root import Root

_SECONDS: Final = 180


class Systemd:
    """The services of one node."""

    def __init__(self, root: Root) -> None:
        """Ask nothing yet."""
        self._is_running: Final = root.is_running

    def check(self) -> None:
        """Raise NotFound if systemd does not run here."""
        if self._is_running and self._systemctl("is-system-running", checked=False) in (
            "",
            "offline",
        ):
            raise errors.NotFound(
                "systemd does not run here: run this on the node itself, or use --root for an image"
            )

    def reload(self) -> None:
        """Have systemd read its units anew."""
        self._systemctl("daemon-reload")

    def start_proxy(self) -> None:
        """Start the socket, then the daemon; return when the runtime has answered it."""
        self._systemctl("start", units.SOCKET)
        self._systemctl("start", units.SERVICE)

    def restart_proxy(self) -> None:
        """Start the daemon anew; its socket stays."""
        self._systemctl("reset-failed", units.SERVICE, checked=False)
        self._systemctl("restart", units.SERVICE)

    def stop_proxy(self) -> None:
        """Stop the daemon and its socket, if they are there."""
        self._systemctl("stop", units.SERVICE, units.SOCKET, checked=False)
        self._systemctl("reset-failed", units.SERVICE, units.SOCKET, checked=False)

    def restart(self, unit: str) -> None:
        """Start a service anew, if it runs: one that was stopped before us stays so."""
        self._systemctl("try-restart", unit)

    def is_active(self, unit: str) -> bool:
        """Return whether a unit runs; nothing does on an image."""
        return self._systemctl("is-active", unit, checked=False) == "active"

    def _systemctl(self, *words: str, checked: bool = True) -> str:
        if not self._is_running:
            return ""
        argv = ["systemctl", "--no-ask-password", *words]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except FileNotFoundError as error:
            raise errors.NotFound("there is no systemctl here: use --root for an image") from error
        except subprocess.TimeoutExpired as error:
            raise errors.SourceUnreachable(
                f"{' '.join(argv)} has not ended in {_SECONDS} seconds: see journalctl -xe"
            ) from error
        if checked and done.returncode:
            raise errors.SourceUnreachable(
                f"{' '.join(argv)} failed: {' '.join(done.stderr.split())}"
            )
        return done.stdout.strip()
