"""A machine of its own, nearly: a Debian with systemd as process 1, started by runc.

    <directory>/upper/          what the machine's root has beside Debian's, or instead
    <directory>/root/           both, mounted: the root as the machine sees it
    <directory>/config.json     runc's
    /testbed in the machine     what the caller mounts there, read-only

Debian's root is made once by debootstrap and kept in ~/.cache/cri-proxy/roots. The machine has its
own PID, mount, network, UTS, IPC and cgroup namespaces; it shares the kernel, and root in it is
root here.
"""

from __future__ import annotations

import json
import os
import shutil
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

    def __init__(self, directory: Path, base: Path, mounts: Mapping[str, Path]) -> None:
        """Lay the root over `base`; `mounts` are paths in the machine and what is to be there."""
        self.directory: Final = directory
        self.root: Final = directory / "root"
        self._base: Final = base
        self._mounts: Final = mounts
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
                "options": ["rbind", "ro"],
            }
            for place, source in self._mounts.items()
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


def _capabilities() -> list[str]:
    """Return the capabilities that we may give away: those that we have ourselves."""
    status = Path("/proc/self/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("CapBnd:"))
    return [f"CAP_{each}" for number, each in enumerate(_NAMES) if int(mask, 16) >> number & 1]
