"""`hack/cluster.sh`: start a cluster that runs until it is stopped.

    /run/cri-proxy-cluster/      exists while a cluster runs
        pid, log                 of the process that starts and stops everything
        kubeconfig, kubectl      links

`up` starts that process in the background and waits until the cluster is ready; `down` stops it. If
it dies, everything that it has started dies as well, and `down` removes the directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from hack.cluster import cluster, programs, samples
from hack.testbed import waiting

_PLACE: Final = Path("/run/cri-proxy-cluster")
_START_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 120.0


def main() -> int:
    """Run the command; return the exit status."""
    match sys.argv[1:]:
        case ["up"]:
            return _up()
        case ["down"]:
            return _down()
        case ["status"]:
            return _status()
        case ["serve"]:
            return _serve()
        case _:
            print(f"usage: {sys.argv[0]} up | status | down", file=sys.stderr)
            return 2


def _up() -> int:
    if _pid() is not None:
        return _status()
    if missing := programs.missing():
        print(f"building first, once, which takes a while: {', '.join(missing)}", file=sys.stderr)
        try:
            programs.provide()
        except programs.Unavailable as error:
            print(error, file=sys.stderr)
            return 1
    shutil.rmtree(_PLACE, ignore_errors=True)
    _PLACE.mkdir(mode=0o700)
    with (_PLACE / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hack.cluster", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (_PLACE / "pid").write_text(str(process.pid))
    waiting.until(
        lambda: process.poll() is not None or (_PLACE / "kubeconfig").exists(),
        what="the cluster to be ready",
        seconds=_START_SECONDS,
        explain=(_PLACE / "log").read_text,
    )
    if process.returncode is not None:
        print((_PLACE / "log").read_text(), file=sys.stderr)
        shutil.rmtree(_PLACE)
        return 1
    return _status()


def _down() -> int:
    pid = _pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        waiting.until(
            lambda: _pid() is None,
            what=f"process {pid} to stop the cluster",
            seconds=_STOP_SECONDS,
        )
    shutil.rmtree(_PLACE, ignore_errors=True)
    return 0


def _status() -> int:
    if _pid() is None:
        print("no cluster is running: start one with hack/cluster.sh up")
        return 3
    print(f"alias kubectl='{_PLACE}/kubectl --kubeconfig {_PLACE}/kubeconfig'")
    print("\n".join(f"# FloxHub has {each}" for each in samples.ENVIRONMENTS))
    return 0


def _serve() -> int:
    """Run a cluster until a signal arrives."""
    stopping = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    for number in stopping:  # during startup, a signal interrupts and undoes it
        signal.signal(number, _interrupt)
    try:
        with cluster.Cluster() as running:
            samples.push(running)
            (_PLACE / "kubectl").symlink_to(programs.path_of("kubectl"))
            (_PLACE / "kubeconfig").symlink_to(running.kubectl.kubeconfig)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # stopping must not be interrupted
    raise KeyboardInterrupt


def _pid() -> int | None:
    """Return the process that runs the cluster, if there is one."""
    try:
        pid = int((_PLACE / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return pid if b"hack.cluster" in words and state not in "ZX" else None


if __name__ == "__main__":
    sys.exit(main())
