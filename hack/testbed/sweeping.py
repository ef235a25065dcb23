"""Removal of a private containerd and everything that it has created.

Everything that it creates can be found by names that the testbed has chosen:

    <directory>/                   all files, sockets, network namespaces and mounts
        traces.json                the names below
    processes                      containerd, shims and runc have <directory> in their arguments
    control groups <cgroup>/…      all container processes are in them
    <bridge>                       all pods' veth pairs are connected to it
    /run/containerd/s/<hash>       shims' sockets; each shim's directory has the address

So `sweep` works without containerd, whether it runs, was killed, or died with the test that had
started it. In the last case, a guard runs this module as a program:

    python -m hack.testbed.sweeping <directory>

`remains` returns what a sweep would find, in words.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hack.testbed import cgroups, network, waiting

_PROGRAMS: Final = re.compile(r"containerd|runc|ctr")
_TASKS: Final = "state/io.containerd.runtime.v2.task/k8s.io"
_SHIM_ADDRESS: Final = re.compile(r"unix://(/run/containerd/s/[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Traces:
    """The names by which the traces of a private containerd are found."""

    directory: Path
    cgroup: str
    network: network.Network

    def save(self) -> None:
        """Write them for `load`."""
        (self.directory / "traces.json").write_text(json.dumps(asdict(self), default=str))


def load(directory: Path) -> Traces:
    """Return the traces of the testbed in `directory`."""
    value = json.loads((directory / "traces.json").read_text())
    return Traces(
        directory=directory,
        cgroup=value["cgroup"],
        network=network.Network(**value["network"]),
    )


def sweep(traces: Traces) -> None:
    """Kill, unmount and remove everything that is left."""
    tasks = _tasks(traces)
    sockets = _shim_sockets(traces)
    waiting.until(
        lambda: not _killed(traces, tasks), what=f"the processes of {traces.directory} to die"
    )
    if mounts := _mounts(traces):
        subprocess.run(["umount", "--lazy", "--", *mounts], check=True)
    network.remove(traces.network)
    for group in (traces.cgroup, *tasks):
        cgroups.remove(group)
    for socket in sockets:
        socket.unlink(missing_ok=True)
    if left := _mounts(traces):
        raise RuntimeError(
            f"{left} are still mounted: deleting the directory would delete their content"
        )
    if traces.directory.exists():
        shutil.rmtree(traces.directory)


def remains(traces: Traces) -> list[str]:
    """Return a line for each thing that is left."""
    groups = (traces.cgroup, *_tasks(traces))
    return [
        *(f"process {pid}" for pid in sorted(_processes(traces, groups))),
        *(f"mount {path}" for path in _mounts(traces)),
        *(f"interface {name}" for name in network.interfaces(traces.network)),
        *(f"control group {path}" for group in groups for path in cgroups.trees(group)),
        *(f"socket {path}" for path in sorted(_shim_sockets(traces))),
        *([f"directory {traces.directory}"] if traces.directory.exists() else []),
    ]


def _killed(traces: Traces, tasks: list[str]) -> set[int]:
    """Kill the running processes, and return their ids.

    containerd is killed before its shims, and these before the containers, each in a separate
    round, so that no program starts or reports processes that the next round would have to find.
    """
    every = _processes(traces, (traces.cgroup, *tasks))
    programs = _programs(traces)
    daemons = {pid for pid in every & programs.keys() if "shim" not in programs[pid]}
    for pid in daemons or every:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return every


def _processes(traces: Traces, groups: tuple[str, ...]) -> set[int]:
    grouped = {pid for group in groups for pid in cgroups.processes(group)}
    ours = grouped | _programs(traces).keys()
    return {pid for pid in ours if pid > 0 and not _is_dead(pid)}


def _programs(traces: Traces) -> dict[int, str]:
    """Return containerd, shims and runc with our directory in their arguments: id → path.

    Other programs may have it, too (a proxy, an editor), and are left alone.
    """
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            words = _arguments(int(process.name))
            is_ours = any(word.startswith(f"{traces.directory}/") for word in words[1:])
            if is_ours and _PROGRAMS.match(Path(words[0]).name):
                found[int(process.name)] = words[0]
    return found


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _is_dead(pid: int) -> bool:
    """Return whether the process has ended; it may still be a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] in "ZX"


def _mounts(traces: Traces) -> list[str]:
    """Return mount points below the directory, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if point.startswith(f"{traces.directory}/"):
            found.append(point)
    return found[::-1]


def _tasks(traces: Traces) -> list[str]:
    """Return control groups of containers that were created outside of our tree."""
    try:
        return [f"k8s.io/{task.name}" for task in (traces.directory / _TASKS).iterdir()]
    except FileNotFoundError:  # containerd had not created it yet, or another sweep has removed it
        return []


def _shim_sockets(traces: Traces) -> set[Path]:
    """Return the sockets of the shims, which record them in `address` or `bootstrap.json`."""
    tasks = [traces.directory / _TASKS / Path(task).name for task in _tasks(traces)]
    records = [_text(task / name) for task in tasks for name in ("address", "bootstrap.json")]
    found = {Path(match) for record in records for match in _SHIM_ADDRESS.findall(record)}
    return {path for path in found if path.exists()}


def _text(record: Path) -> str:
    try:
        return record.read_text()
    except OSError:  # another version of shim, or its pod was just removed
        return ""


if __name__ == "__main__":
    sweep(load(Path(sys.argv[1])))
