"""A cri-proxy in front of a runtime's socket: the real daemon, started as on a node.

    <directory>/config.toml  cri-proxy.sock  log
    <directory>/state/       store.root; survives `kill` and `restart`
    <directory>/kubelet/     the default directory for volumes of pods

It is ready when the runtime answers through it. `kill` sends SIGKILL, `stop` lets it drain,
`replace` is an upgrade without downtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from cri_proxy.cri import api_pb2
from cri_proxy.lib import mounts
from hack.testbed import cri, processes, waiting
from hack.testbed.daemons import Daemon

FRONT: Final = "TESTBED_FRONT"
"""The environment variable with the front for a whole test run: interposer or router."""

_REPOSITORY: Final = Path(__file__).parents[2]


class Proxy(Daemon):
    """One proxy; it can be used from `start` (or `with`) to `stop`."""

    title = "cri-proxy"

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        settings: Mapping[str, Mapping[str, Any]],
        *,
        kubelet_root: Path | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Write the configuration: `settings` besides those that keep the proxy to `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory: Final = directory
        self.socket: Final = directory / "cri-proxy.sock"
        self.root: Final = directory / "state"
        self.config: Final = directory / "config.toml"
        self.log: Final = directory / "log"
        self._flags: Final = tuple(flags)
        self._sections: Final[dict[str, dict[str, Any]]] = {
            "serve": {"listen": str(self.socket), "front": os.environ.get(FRONT, "router")},
            "runtime": {"endpoint": str(runtime)},
            "store": {"root": str(self.root)},
            "pods": {"kubelet_root": str(kubelet_root or directory / "kubelet")},
            "log": {"format": "text", "level": "debug"},
        }
        self.configure(settings)

    def configure(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Add settings, which apply from the next start."""
        for section, keys in settings.items():
            self._sections.setdefault(section, {}).update(keys)
        self.config.write_text(toml_of(self._sections))

    def __exit__(self, *_: object) -> None:
        self.stop()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            place = line.split()[4]
            if place.startswith(f"{self.root}/"):  # after a kill, or after the runtime died
                mounts.detach(Path(place))

    @property
    def environments(self) -> Path:
        """The directory of its environments."""
        return self.root / "environments"

    def argv(self, *command: str) -> list[str]:
        """Return the argument list of a cri-proxy command with these settings."""
        return [sys.executable, "-m", "cri_proxy", *command, "--config", str(self.config)]

    def run(self, *command: str) -> str:
        """Run a cri-proxy command with these settings, which must succeed; return its output."""
        done = subprocess.run(
            self.argv(*command),
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=waiting.DEADLINE_SECONDS,
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def launch(self) -> processes.Program:
        """Start it with its settings and flags."""
        return self._launched()

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, and wait until its child programs have ended.

        They run in sessions of their own and leave when they see their input end, so that for a
        moment they still write to `root`.
        """
        children = processes.children_of(self.program.pid)
        super().kill()
        waiting.until(
            lambda: not any(processes.is_running(each) for each in children),
            what="the child programs of a killed proxy to end",
        )

    def replace(self, source: Path) -> None:
        """Start the proxy of another source tree with `--replace`; this one drains and ends."""
        old, self._program = self.program, self._launched("--replace", source=source)
        if code := old.wait():
            raise AssertionError(f"the replaced proxy ended with {code}: {old.tail()}")
        self._program.await_ready(self.is_ready, what=f"{self.title} to be ready")

    def log_text(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def is_ready(self) -> bool:
        """Return whether the runtime answers through it."""
        client = cri.Client(self.socket)
        try:
            client.call("Version", api_pb2.VersionRequest(), api_pb2.VersionResponse)
        except grpc.RpcError:
            return False
        finally:
            client.close()
        return True

    def _launched(self, *flags: str, source: Path = _REPOSITORY) -> processes.Program:
        return processes.Program(
            [*self.argv("serve"), *self._flags, *flags],
            log=self.log,
            env={**os.environ, "PYTHONPATH": str(source)},
            cwd=self.directory,
        )


def toml_of(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return settings as a TOML file."""
    lines: list[str] = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_value_of(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _value_of(value: object) -> str:
    """Return a TOML value; tables are inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value_of(each) for each in value) + "]"
    return json.dumps(value)
