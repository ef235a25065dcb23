"""A cri-proxy in front of a runtime's socket: the real program, started as on a node.

    <directory>/config.toml  cri-proxy.sock  log
    <directory>/state/       what it keeps on disk; survives `kill` and `restart`
    <directory>/kubelet/     where it looks for the volumes of pods

It is ready when the runtime answers through it. `kill` is SIGKILL, `stop` lets it drain, `replace`
is an upgrade beside the one that runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from cri_proxy.cri import api_pb2
from cri_proxy.lib import mounts
from hack.testbed import cri, processes, waiting

FRONT: Final = "TESTBED_FRONT"
"""The variable that says what kubelet talks to in a whole test run: interposer or router."""

_REPOSITORY: Final = Path(__file__).parents[2]


class Proxy:
    """One proxy; usable from `start` (or `with`) to `stop`."""

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        settings: Mapping[str, Mapping[str, Any]],
        *,
        kubelet_root: Path | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Write the settings: sections of keys, over those that keep the proxy to `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory: Final = directory
        self.socket: Final = directory / "cri-proxy.sock"
        self.root: Final = directory / "state"
        self.config: Final = directory / "config.toml"
        self.log: Final = directory / "log"
        self._flags: Final = tuple(flags)
        self._program: processes.Program | None = None
        self._sections: Final[dict[str, dict[str, Any]]] = {
            "serve": {"listen": str(self.socket), "front": os.environ.get(FRONT, "router")},
            "runtime": {"endpoint": str(runtime)},
            "store": {"root": str(self.root)},
            "pods": {"kubelet_root": str(kubelet_root or directory / "kubelet")},
            "log": {"format": "text", "level": "debug"},
        }
        self.configure(settings)

    def configure(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Add settings; a proxy that runs takes no notice before its next start."""
        for section, keys in settings.items():
            self._sections.setdefault(section, {}).update(keys)
        self.config.write_text(toml_of(self._sections))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            place = line.split()[4]
            if place.startswith(f"{self.root}/"):  # a killed one had no time, or the runtime died
                mounts.detach(Path(place))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    @property
    def environments(self) -> Path:
        """Where its environments are."""
        return self.root / "environments"

    def argv(self, *command: str) -> list[str]:
        """Return the argument list of a command of cri-proxy with this one's settings."""
        return [sys.executable, "-m", "cri_proxy", *command, "--config", str(self.config)]

    def run(self, *command: str) -> str:
        """Return what a command of cri-proxy with this one's settings writes; it must succeed."""
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

    def start(self, *, awaited: bool = True) -> None:
        """Start it, and wait until the runtime answers through it unless `awaited` is false."""
        self._program = self._launched()
        if awaited:
            waiting.until(
                self._is_ready, what="cri-proxy to answer", explain=lambda: self.log_text()[-4000:]
            )

    def stop(self) -> None:
        """Let it drain and end; no harm when it has ended."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self._running().kill()
        self._program = None

    def restart(self) -> None:
        """Let it drain, and start it again."""
        self.stop()
        self.start()

    def replace(self, source: Path) -> None:
        """Let the one of another source tree take over by `--replace`; this one drains and ends."""
        old, self._program = self._running(), self._launched("--replace", source=source)
        if code := old.wait():
            raise AssertionError(f"the one that was replaced ended with {code}: {old.tail()}")
        waiting.until(self._is_ready, what="cri-proxy to answer", explain=self._program.tail)

    def log_text(self) -> str:
        """Return all that it has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _launched(self, *flags: str, source: Path = _REPOSITORY) -> processes.Program:
        return processes.Program(
            [*self.argv("serve"), *self._flags, *flags],
            log=self.log,
            env={**os.environ, "PYTHONPATH": str(source)},
            cwd=self.directory,
        )

    def _is_ready(self) -> bool:
        program = self._running()
        if not program.is_running:
            raise AssertionError(f"cri-proxy ended: {self.log_text()[-4000:]}")
        client = cri.Client(self.socket)
        try:
            client.call("Version", api_pb2.VersionRequest(), api_pb2.VersionResponse)
        except grpc.RpcError:
            return False
        finally:
            client.close()
        return True

    def _running(self) -> processes.Program:
        if self._program is None:
            raise AssertionError("this cri-proxy does not run")
        return self._program


def toml_of(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return settings as they are written to a file."""
    lines: list[str] = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_value_of(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _value_of(value: object) -> str:
    """Return a TOML value; tables are written inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value_of(each) for each in value) + "]"
    return json.dumps(value)
