"""systemd on the node: units started, stopped and reloaded; on the image of a node a no-op."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.node import units
from cri_proxy.node.root import Root

_SECONDS: Final = 180


@dataclass(frozen=True, slots=True)
class Systemd:
    """systemd of one node."""

    root: Root

    def check(self) -> None:
        """Raise NotFound if systemd does not run here."""
        state = self._systemctl("is-system-running", checked=False)
        if self.root.is_running and state in ("", "offline"):
            raise errors.NotFound(
                "systemd is not running: run this on the node itself, or use --root for an image"
            )

    def reload(self) -> None:
        """Reload all units."""
        self._systemctl("daemon-reload")

    def start_proxy(self) -> None:
        """Start the socket and the daemon; return when the daemon has reached the runtime."""
        self._systemctl("start", units.SOCKET)
        self._systemctl("start", units.SERVICE)

    def restart_proxy(self) -> None:
        """Restart the daemon; its socket stays."""
        self._systemctl("reset-failed", units.SERVICE, checked=False)
        self._systemctl("restart", units.SERVICE)

    def stop_proxy(self) -> None:
        """Stop the daemon and its socket, if they exist."""
        self._systemctl("stop", units.SERVICE, units.SOCKET, checked=False)
        self._systemctl("reset-failed", units.SERVICE, units.SOCKET, checked=False)

    def restart(self, unit: str) -> None:
        """Restart a service if it is running: one that was stopped before stays stopped."""
        self._systemctl("try-restart", unit)

    def is_active(self, unit: str) -> bool:
        """Return whether a unit is active; on an image none is."""
        return self._systemctl("is-active", unit, checked=False) == "active"

    def _systemctl(self, *words: str, checked: bool = True) -> str:
        if not self.root.is_running:
            return ""
        argv = ["systemctl", "--no-ask-password", *words]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except FileNotFoundError as error:
            raise errors.NotFound(
                "systemctl is not installed here: use --root for an image"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise errors.SourceUnreachable(
                f"{' '.join(argv)} did not finish in {_SECONDS} seconds: see journalctl -xe"
            ) from error
        if checked and done.returncode:
            raise errors.SourceUnreachable(
                f"{' '.join(argv)} failed: {' '.join(done.stderr.split())}"
            )
        return done.stdout.strip()
