"""Checks of the CRI endpoints: the runtime, the proxy's own socket, and kubelet's setting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.disk import existing
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.cri import api_pb2, channels
from cri_proxy.cri.runtime import Runtime
from cri_proxy.node import kubelets
from cri_proxy.node.root import Root, owners_of
from cri_proxy.settings import schema
from cri_proxy.settings.kinds import SOCKET_PATH_BYTES

_ANSWER_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 2.0
_STAGING_BYTES: Final = 16
"""A socket is bound under a longer name in the same directory, then renamed."""


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group."""
    return [
        Check("runtime", partial(runtime, settings.runtime.endpoint, settings.runtime.handlers)),
        Check("own socket", partial(own, settings.serve.listen)),
        Check("kubelet", partial(kubelet, settings.serve.listen, Path("/proc"))),
    ]


def runtime(endpoint: Path, handlers: Mapping[str, str]) -> Finding:
    """Check that the runtime answers, is ready and has the handlers of the settings."""
    if not endpoint.exists():
        return findings.fail(
            f"{endpoint} does not exist",
            "start the container runtime, or set runtime.endpoint to its CRI socket",
        )
    if not endpoint.is_socket():
        return findings.fail(
            f"{endpoint} is not a socket", "set runtime.endpoint to the CRI socket"
        )
    try:
        return asyncio.run(_asked(endpoint, handlers))
    except errors.CriProxyError as error:
        return findings.fail(f"{endpoint}: {error}", "")


def own(listen: Path) -> Finding:
    """Check that the proxy's socket is served, or can be created."""
    length = len(bytes(listen))
    if length + _STAGING_BYTES > SOCKET_PATH_BYTES:
        return findings.fail(
            f"{listen} has {length} bytes, too many for the temporary name that it is bound under",
            f"set serve.listen to a path of at most {SOCKET_PATH_BYTES - _STAGING_BYTES} bytes",
        )
    if not os.path.lexists(listen):
        nearest = existing(listen.parent)
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            return findings.fail(
                f"{nearest} is not writable, so {listen} cannot be created",
                "run the check as root, or set serve.listen",
            )
        return findings.ok(f"{listen} (created when the daemon starts)")
    status = listen.lstat()
    if not stat.S_ISSOCK(status.st_mode):
        return findings.fail(f"{listen} exists and is not a socket", "remove or rename it")
    if status.st_mode & stat.S_IWOTH:
        return findings.warn(
            f"{listen} is open to every user of this node ({_owner_of(status)})",
            f"chmod 660 {listen}: anyone who can connect can start containers",
        )
    served = "served by a daemon" if _is_served(listen) else "left behind by a stopped daemon"
    return findings.ok(f"{listen}, {served} ({_owner_of(status)})")


def kubelet(listen: Path, proc: Path) -> Finding:
    """Check that the running kubelet is configured to use the proxy; `proc` is /proc."""
    arguments = _arguments_of_kubelet(proc)
    if arguments is None:
        return findings.ok("not running on this node")
    endpoint = kubelets.endpoint_of(Root(), arguments)
    advice = f"run cri-proxy install, or set its containerRuntimeEndpoint to unix://{listen}"
    if endpoint is None:
        return findings.warn("no runtime endpoint is configured for it", advice)
    path = endpoint.removeprefix("unix://")
    if Path(path) == listen:
        return findings.ok("uses the proxy")
    return findings.warn(f"uses {path}, bypassing the proxy", advice)


async def _asked(endpoint: Path, handlers: Mapping[str, str]) -> Finding:
    async with channels.dial(endpoint) as channel:
        asked = Runtime(channel)
        version = await asked.version(within=_ANSWER_SECONDS)
        status = await asked.status(within=_ANSWER_SECONDS)
    name = f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}"
    return _judged(f"{name}, at {endpoint}", status, handlers)


def _judged(found: str, status: api_pb2.StatusResponse, handlers: Mapping[str, str]) -> Finding:
    """Judge a runtime by its status; old ones do not list their handlers."""
    known = {handler.name for handler in status.runtime_handlers}
    missing = sorted({real for real in handlers.values() if known and real not in known})
    if missing:
        return findings.fail(
            f"{found}, has no handler {', '.join(missing)}",
            f"set runtime.handlers to those that it has: {', '.join(sorted(filter(None, known)))}",
        )
    for condition in status.status.conditions:
        if not condition.status:
            return findings.warn(
                f"{found}, reports {condition.type} false: {condition.message or condition.reason}",
                "fix this first: pods do not start without it",
            )
    return findings.ok(found)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        return connection.connect_ex(str(path)) == 0


def _owner_of(status: os.stat_result) -> str:
    """Return mode, owner and group, such as `0660 root:root`."""
    return f"{stat.S_IMODE(status.st_mode):04o} {':'.join(owners_of(status))}"


def _arguments_of_kubelet(proc: Path) -> list[str] | None:
    """Return the command line of the running kubelet, None if none is running."""
    for process in sorted(proc.glob("[0-9]*")):
        with contextlib.suppress(OSError):  # the process has ended
            if (process / "comm").read_text().strip() == "kubelet":
                return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return None
