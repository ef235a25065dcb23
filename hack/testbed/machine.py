"""A machine, nearly: Debian with systemd as process 1, started by runc.

    <directory>/upper/          the machine's changes to Debian's root
    <directory>/root/           both, mounted: the machine's root
    <directory>/config.json     runc's configuration
    /testbed in the machine     the caller's mounts, read-only
    disks                       directories of this host that are writable in the machine

Debian's root is created once by debootstrap and kept in ~/.cache/cri-proxy/roots. The machine has
its own PID, mount, network, UTS, IPC and cgroup namespaces, but no user namespace: it shares the
kernel, and root in it is root on this host.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from hack.dist import apt
from hack.testbed import processes

BOOT_SECONDS: Final = 300.0
"""The timeout for systemd's start on a busy host."""

_SETS: Final = ("bounding", "effective", "permitted")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES: Final = ("pid", "mount", "network", "uts", "ipc", "cgroup")
# <linux/capability.h>, in its order
_NAMES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
_UP: Final = ("running", "degraded")
_VOLATILE: Final = ("dev", "proc", "run", "sys", "testbed", "tmp", "var/log")

Snapshot = Mapping[str, tuple[object, ...]]
"""By path: mode, owners, the target of a link, time and digest of a file."""


def debian(suite: str, *, packages: Sequence[str] = ()) -> Path:
    """Return a root directory with Debian's `suite` and those packages; it must not be changed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    roots = Path(home) / "cri-proxy/roots"
    roots.mkdir(parents=True, exist_ok=True)
    place = roots / "-".join([suite, *packages])
    if place.exists():
        return place
    staged = Path(tempfile.mkdtemp(dir=roots))
    argv = ["debootstrap", "--variant=minbase", f"--keyring={apt.KEYRING}"]
    argv += [f"--include={','.join(packages)}"] if packages else []
    argv += [suite, str(staged), apt.mirror()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(staged)
        raise AssertionError(f"debootstrap failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    shutil.rmtree(staged / "var/cache/apt")
    staged.chmod(0o755)
    staged.rename(place)
    return place


class Machine:
    """A machine; its root is mounted while the context lasts."""

    def __init__(
        self,
        directory: Path,
        base: Path,
        mounts: Mapping[str, Path],
        *,
        disks: Mapping[str, Path] | None = None,
    ) -> None:
        """Prepare a root on top of `base`; `mounts` are paths in the machine and their sources.

        `disks` are the same, but writable in the machine.
        """
        self.directory: Final = directory
        self.root: Final = directory / "root"
        self._base: Final = base
        self._mounts: Final = mounts
        self._disks: Final = dict(disks or {})
        self._name: Final = f"machine-{os.getpid()}-{directory.name}"
        self._program: processes.Program | None = None
        for name in ("root", "upper", "work"):
            (directory / name).mkdir(parents=True)

    def __enter__(self) -> Self:
        options = f"lowerdir={self._base},upperdir={self.directory}/upper"
        options += f",workdir={self.directory}/work"
        argv = ["mount", "-t", "overlay", "overlay", "-o", options, str(self.root)]
        subprocess.run(argv, check=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        subprocess.run(["umount", "--lazy", str(self.root)], check=True)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the machine."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def read(self, path: str) -> str:
        """Return the content of a file of the machine."""
        return (self.root / path.lstrip("/")).read_text()

    @property
    def pid(self) -> int:
        """The process id of its process 1 on this host."""
        state = subprocess.run(["runc", "state", self._name], capture_output=True, check=True)
        return int(json.loads(state.stdout)["pid"])

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the root without logs and mounts."""
        found: dict[str, tuple[object, ...]] = {}
        for directory, names, files in os.walk(self.root):
            inside = os.path.relpath(directory, self.root)
            names[:] = [
                name for name in names if os.path.normpath(f"{inside}/{name}") not in _VOLATILE
            ]
            for name in [*names, *files]:
                found[os.path.normpath(f"{inside}/{name}")] = noted(Path(directory, name))
        return found

    def boot(self) -> None:
        """Start systemd, and wait until it has started all units."""
        (self.directory / "config.json").write_text(json.dumps(self._config()))
        self._program = processes.Program(
            ["runc", "run", "--bundle", self.directory, self._name],
            log=self.directory / "log",
        )
        self._program.await_ready(
            lambda: self.run("systemctl", "is-system-running").strip() in _UP,
            what="systemd to be running",
            seconds=BOOT_SECONDS,
            explain=self._explained,
        )

    def stop(self) -> None:
        """Kill every process of the machine."""
        if self._program is not None:
            subprocess.run(["runc", "kill", self._name, "KILL"], check=False, capture_output=True)
            self._program.stop()
            delete = ["runc", "delete", "--force", self._name]
            subprocess.run(delete, check=False, capture_output=True)
            self._program = None

    def run(self, *argv: str, is_checked: bool = False) -> str:
        """Return the output of a program in the machine, including standard error."""
        done = subprocess.run(
            ["runc", "exec", self._name, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=BOOT_SECONDS,
        )
        if is_checked and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: {done.stdout}{self._explained()}")
        return done.stdout

    def _explained(self) -> str:
        journal = self.run("journalctl", "--no-pager", "--lines=60")
        log = (self.directory / "log").read_text(errors="replace")[-2000:]
        return f"\n{journal}\n{log}"

    def _config(self) -> dict[str, Any]:
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
        ]
        mounts += [
            {
                "destination": place,
                "type": "bind",
                "source": str(source),
                "options": ["rbind", mode],
            }
            for mode, places in (("ro", self._mounts), ("rw", self._disks))
            for place, source in places.items()
        ]
        ours = _capabilities()
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/lib/systemd/systemd", "--log-target=journal"],
                "cwd": "/",
                "env": ["container=runc", f"PATH={_PATH}"],
                "capabilities": dict.fromkeys(_SETS, ours),
            },
            "root": {"path": str(self.root)},
            "hostname": "machine",
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": each} for each in _NAMESPACES],
                "cgroupsPath": f"/{self._name}",
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            },
        }


def noted(path: Path) -> tuple[object, ...]:
    """Return the entry of a snapshot for a path."""
    status = path.lstat()
    kept = (oct(status.st_mode), status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*kept, os.fspath(path.readlink()))
    if stat.S_ISREG(status.st_mode):
        return (*kept, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return kept


def difference(before: Snapshot, after: Snapshot) -> dict[str, tuple[object, object]]:
    """Return the paths that differ, with both entries."""
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def _capabilities() -> list[str]:
    """Return the capabilities that we can pass on, which are our own."""
    status = Path("/proc/self/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("CapBnd:"))
    return [f"CAP_{each}" for number, each in enumerate(_NAMES) if int(mask, 16) >> number & 1]
