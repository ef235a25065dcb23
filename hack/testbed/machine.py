"""A machine of its own, nearly: a Debian with systemd as process 1, started by runc.

    <directory>/upper/          what the machine's root has beside Debian's, or instead
    <directory>/root/           both, mounted: the root as the machine sees it
    <directory>/config.json     runc's
    /testbed in the machine     what the caller mounts there, read-only
    disks                       directories of this host that the machine may write to

Debian's root is made once by debootstrap and kept in ~/.cache/cri-proxy/roots. The machine has its
own PID, mount, network, UTS, IPC and cgroup namespaces; it shares the kernel, and root in it is
root here.
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
"""How long systemd may take, on a machine that is busy."""

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
"""Of each path of a root: mode, owners, a link's target, a file's time and digest."""


def debian(suite: str, *, packages: Sequence[str] = ()) -> Path:
    """Return a root with the release `suite` of Debian and those packages; not to be written to."""
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
    """One machine, running while it is entered."""

    def __init__(
        self,
        directory: Path,
        base: Path,
        mounts: Mapping[str, Path],
        *,
        disks: Mapping[str, Path] | None = None,
    ) -> None:
        """Lay the root over `base`; `mounts` are paths in the machine and what is to be there.

        So are `disks`, which the machine may write to.
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
        """Return what a file of the machine says."""
        return (self.root / path.lstrip("/")).read_text()

    @property
    def pid(self) -> int:
        """The process id, here, of its process 1."""
        state = subprocess.run(["runc", "state", self._name], capture_output=True, check=True)
        return int(json.loads(state.stdout)["pid"])

    def snapshot(self) -> Snapshot:
        """Return what the root has, less what lives: logs, and all that is mounted."""
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
        """Start systemd, and wait until it has started all there is to start."""
        (self.directory / "config.json").write_text(json.dumps(self._config()))
        self._program = processes.Program(
            ["runc", "run", "--bundle", self.directory, self._name],
            log=self.directory / "log",
        )
        self._program.await_ready(
            lambda: self.run("systemctl", "is-system-running").strip() in _UP,
            what="systemd to be up",
            seconds=BOOT_SECONDS,
            explain=self._explained,
        )

    def stop(self) -> None:
        """End every process of the machine."""
        if self._program is not None:
            subprocess.run(["runc", "kill", self._name, "KILL"], check=False, capture_output=True)
            self._program.stop()
            delete = ["runc", "delete", "--force", self._name]
            subprocess.run(delete, check=False, capture_output=True)
            self._program = None

    def run(self, *argv: str, is_checked: bool = False) -> str:
        """Return what a program in the machine writes, errors too."""
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
    """Return what a snapshot has of one path."""
    status = path.lstat()
    kept = (oct(status.st_mode), status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*kept, os.fspath(path.readlink()))
    if stat.S_ISREG(status.st_mode):
        return (*kept, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return kept


def difference(before: Snapshot, after: Snapshot) -> dict[str, tuple[object, object]]:
    """Return what is not the same."""
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def _capabilities() -> list[str]:
    """Return the capabilities that we may give away: those that we have ourselves."""
    status = Path("/proc/self/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("CapBnd:"))
    return [f"CAP_{each}" for number, each in enumerate(_NAMES) if int(mask, 16) >> number & 1]
