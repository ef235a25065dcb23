"""A private containerd: real pods on this machine, isolated from everything else on it.

    /tmp/cri-proxy-<token>/        all files of one testbed; for everything else of it, see
        containerd.sock            `sweeping`
        config.toml, cni/, log
        root/, state/, runc/       containerd's and runc's own
        images/                    tar archives during their import
        kubelet/, logs/            kubelet's files, see `kubelet`

It needs root, containerd, runc, the CNI plugins and a static busybox (`lacks` returns what is
missing), but no network and no registry: its images are built and imported here. `kill` and
`restart` do not affect pods, as on a real node; `stop` removes everything. If the process that
started it dies, even by SIGKILL, a guard does the same.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc

from cri_proxy.cri import api_pb2
from hack.testbed import configuration, cri, images, network, pods, processes, sweeping, waiting
from hack.testbed.binaries import Binaries
from hack.testbed.daemons import Daemon

_REPOSITORY: Final = Path(__file__).parents[2]
_CNI_DIRECTORIES: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
_CNI_PLUGINS: Final = ("bridge", "host-local", "loopback")
_PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip")
_CAP_SYS_RESOURCE: Final = 24
_LONGEST_SOCKET_PATH: Final = 104  # containerd refuses longer ones


def lacks(binaries: Binaries | None = None) -> list[str]:
    """Return what this machine lacks for a private containerd, as phrases for a message."""
    binaries = binaries or Binaries()
    missing = [] if os.geteuid() == 0 else ["root's rights"]
    missing += [f"the program {name}" for name in _PROGRAMS if binaries.path_of(name) is None]
    if cni_plugins() is None:
        missing.append(f"the CNI plugins {', '.join(_CNI_PLUGINS)}")
    if images.static_busybox() is None:
        missing.append("a statically linked busybox")
    return missing


class Containerd(Daemon):
    """One private containerd; usable from `start` (or `with`) to `stop`."""

    title = "containerd"

    def __init__(
        self,
        *,
        binaries: Binaries | None = None,
        handlers: Sequence[str] = ("runc", "runc-second"),
        mirrors: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Choose names, without starting anything. The first of `handlers` is the default.

        `mirrors` are the plain HTTP registries to pull images from, by the names of the registries
        that they replace. `variables` are environment variables of the daemon, for example for
        exporting traces.
        """
        self._variables: Final = dict(variables or {})
        self._binaries: Final = binaries or Binaries()
        self._handlers: Final = tuple(handlers)
        self._mirrors: Final = dict(mirrors or {})
        token = secrets.token_hex(4)
        directory = Path(tempfile.gettempdir()) / f"cri-proxy-{token}"
        self.traces: Final = sweeping.Traces(
            directory=directory, cgroup=directory.name, network=network.chosen(token)
        )
        self._guard: processes.Guard | None = None

    def __repr__(self) -> str:
        return f"<containerd in {self.directory}, {self._program!r}>"

    @property
    def binaries(self) -> Binaries:
        """Its programs."""
        return self._binaries

    @property
    def directory(self) -> Path:
        """The directory of all its files."""
        return self.traces.directory

    @property
    def socket(self) -> Path:
        """The socket of the CRI and of containerd's own API."""
        return self.directory / "containerd.sock"

    def start(self, *, awaited: bool = True) -> None:
        """Start it, wait until the CRI answers, and import the testbed's images."""
        assert awaited, "images cannot be imported into a containerd that is not ready"
        if missing := lacks(self._binaries):
            raise RuntimeError(
                f"a private containerd cannot run here, it lacks {'; '.join(missing)}: "
                "run hack/prerequisites.sh test"
            )
        self.directory.mkdir(mode=0o711)
        self.traces.save()
        sweep = [sys.executable, "-m", "hack.testbed.sweeping", str(self.directory)]
        self._guard = processes.Guard(sweep, cwd=_REPOSITORY)
        try:
            network.create(self.traces.network)
            self._configure()
            self._begin()
            self.import_images(images.of_testbed())
        except BaseException:
            self.stop()
            raise

    def pods(self, socket: Path | None = None) -> pods.Pods:
        """Return a client for pods on it; `socket` is that of a proxy in front of it, if any."""
        return pods.Pods(
            socket or self.socket, directory=self.directory, cgroup_parent=f"/{self.traces.cgroup}"
        )

    def stop(self) -> None:
        """Stop it, and remove everything that it has created."""
        self._end()
        if self.directory.exists():
            sweeping.sweep(self.traces)
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def import_images(self, wanted: Sequence[images.Image]) -> None:
        """Import images, and wait until the CRI knows them."""
        tars = self.directory / "images"
        tars.mkdir(exist_ok=True)
        for image in wanted:
            tar = tars / "image.tar"
            images.write(image, tar)
            self.ctr("images", "import", str(tar))
            tar.unlink()
            self._await_image(image.name)

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client in the CRI's namespace; return its output."""
        ctr = self._binary("ctr")
        done = subprocess.run(
            [ctr, "--address", self.socket, "--namespace", "k8s.io", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": self._binaries.search_path},
        )
        if done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def version(self) -> str:
        """Return the version of the binary, for example `1.6.20~ds1`."""
        return self._binaries.version()

    def _configure(self) -> None:
        if len(str(self.socket)) > _LONGEST_SOCKET_PATH:
            raise RuntimeError(f"{self.socket} is too long for a socket: set a shorter TMPDIR")
        plugins = cni_plugins()
        assert plugins is not None
        configuration_directory = self.directory / "cni"
        configuration_directory.mkdir()
        conflist = network.conflist(self.traces.network, self.directory)
        (configuration_directory / "10-testbed.conflist").write_text(conflist)
        choices = configuration.Choices(
            directory=self.directory,
            runc=self._binary("runc"),
            cni_plugins=plugins,
            sandbox_image=images.PAUSE,
            snapshotter="overlayfs" if can_overlay(self.directory) else "native",
            handlers=self._handlers,
            is_oom_score_restricted=not _has_capability(_CAP_SYS_RESOURCE),
            registries=self._registries(),
        )
        text = configuration.text_of(choices, major=self._binaries.major())
        (self.directory / "config.toml").write_text(text)

    def _registries(self) -> Path | None:
        """Write the configuration of the mirrors, if any; return its directory."""
        if not self._mirrors:
            return None
        registries = self.directory / "registries"
        for name, address in self._mirrors.items():
            (registries / name).mkdir(parents=True)
            (registries / name / "hosts.toml").write_text(
                f'server = "http://{address}"\n[host."http://{address}"]\n'
                'capabilities = ["pull", "resolve"]\n'
            )
        return registries

    def launch(self) -> processes.Program:
        """Start the daemon itself; `start` has prepared its files."""
        return processes.Program(
            [self._binary("containerd"), "--config", self.directory / "config.toml"],
            log=self.directory / "log",
            env={**self._variables, "PATH": self._binaries.search_path},
        )

    def is_ready(self) -> bool:
        """Return whether the CRI answers (Version) and has recovered its pods (Status)."""
        client = cri.Client(self.socket)
        try:
            client.call("Version", api_pb2.VersionRequest(), api_pb2.VersionResponse, seconds=5)
            client.call("Status", api_pb2.StatusRequest(), api_pb2.StatusResponse, seconds=5)
        except grpc.RpcError:
            return False
        finally:
            client.close()
        return True

    def _await_image(self, name: str) -> None:
        """Wait until the CRI knows an image; it learns about imports from an event."""
        request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))

        def is_known() -> bool:
            reply = client.call("ImageStatus", request, api_pb2.ImageStatusResponse)
            return reply.HasField("image")

        client = cri.Client(self.socket)
        try:
            waiting.until(is_known, what=f"the CRI to know {name}", explain=self.program.tail)
        finally:
            client.close()

    def _binary(self, name: str) -> Path:
        path = self._binaries.path_of(name)
        assert path is not None, f"{name} was found by lacks()"
        return path


def cni_plugins() -> Path | None:
    """Return the directory that has all needed plugins."""
    for directory in _CNI_DIRECTORIES:
        if all((directory / name).is_file() for name in _CNI_PLUGINS):
            return directory
    return None


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> number & 1)


def can_overlay(directory: Path) -> bool:
    """Return whether overlayfs works on the directory's file system (not if that is an overlay)."""
    with tempfile.TemporaryDirectory(dir=directory) as trial:
        parts = {name: Path(trial) / name for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            part.mkdir()
        options = "lowerdir={lower},upperdir={upper},workdir={work}".format(**parts)
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            return False
        subprocess.run(["umount", parts["merged"]], check=True)
        return True
