"""Installation and uninstallation: their order, and the rollback if the node does not work.

    1. program, units, settings       not used by anything yet
    2. the proxy is started           and the runtime must answer through it
    3. kubelet's configuration        one line of it is changed, see `kubelets`
    4. kubelet is restarted           and the node must become Ready again

If anything fails or is interrupted, all steps of this run are undone, the latest first, and kubelet
is restarted if its configuration was changed. Installing again is an upgrade: what is the same is
left alone, the daemon restarts behind its socket, and kubelet is not touched. Uninstalling goes
from 4 to 1 with the original files.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import hashlib
import os
import shutil
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2, channels
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import adjustment
from cri_proxy.node import editing, kubelets, readiness, release, runtimes, units
from cri_proxy.node.changes import Journal
from cri_proxy.node.kubelets import Kubelet
from cri_proxy.node.release import Release
from cri_proxy.node.root import Root, owners_of
from cri_proxy.node.systemd import Systemd
from cri_proxy.settings import CONFIG_FILE, Settings, kinds

Report = Callable[[str], None]
_DEFAULT_RUNTIME: Final = "/run/containerd/containerd.sock"
_SOCKET_MODE: Final = 0o660


@dataclass(frozen=True, slots=True)
class InstallationPlan:
    """All changes that an installation makes; what is already as it should be is left out.

    Files are path to new text, links path to target.
    """

    kubelet: Kubelet
    runtime: str
    listen: str
    release: Release
    is_new_release: bool
    files: dict[str, str]
    links: dict[str, str]
    kubelet_files: dict[str, str]

    @property
    def changes_proxy(self) -> bool:
        """Whether the daemon's program, units or settings change."""
        return bool(self.is_new_release or self.files or self.links)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.changes_proxy or self.kubelet_files)

    def diff(self, root: Root) -> str:
        """Return the changes as text for --dry-run."""
        lines = []
        if self.is_new_release:
            lines.append(f"copy {self.release.tree} to {self.release.place}\n")
        for path, text in (*self.files.items(), *self.kubelet_files.items()):
            before = root.text(path)
            lines += difflib.unified_diff(
                [] if before is None else before.splitlines(keepends=True),
                text.splitlines(keepends=True),
                "/dev/null" if before is None else path,
                path,
            )
        lines += [f"link {path} -> {target}\n" for path, target in self.links.items()]
        if self.kubelet_files:
            lines.append(f"restart {self.kubelet.unit}\n")
        return "".join(lines)


def plan_of(root: Root, settings: Settings, *, is_runtime_set: bool) -> InstallationPlan:
    """Return what an installation would change, without changing anything.

    `is_runtime_set` says that runtime.endpoint is not its default. Raises NotFound without kubelet
    or runtime, RequestInvalid for a configuration that cannot be changed safely.
    """
    kubelet = kubelets.find(root)
    listen = str(settings.serve.listen)
    endpoint = f"unix://{listen}"
    found = release.present()
    if is_runtime_set:
        runtime = str(settings.runtime.endpoint)
    else:
        remembered = Journal(root).runtime
        runtime = runtimes.find(root, kubelet.endpoint, ours=listen, remembered=remembered)
    links = units.enablement() | found.links
    edits = {} if kubelet.endpoint == endpoint else kubelets.edits(root, kubelet, endpoint)
    mode, user, group = _access_of(root, runtime)
    socket = units.socket_of(listen, mode=mode, user=user, group=group)
    files = {
        f"{units.DIRECTORY}/{units.SOCKET}": socket,
        f"{units.DIRECTORY}/{units.SERVICE}": units.service_of(found.program),
        **_settings_files(root, runtime),
    }
    return InstallationPlan(
        kubelet,
        runtime,
        listen,
        found,
        is_new_release=found.tree is not None and not root.at(found.place).exists(),
        files=_changed(root, files),
        links={path: target for path, target in links.items() if _target(root, path) != target},
        kubelet_files=_changed(root, edits),
    )


def install(root: Root, plan: InstallationPlan, report: Report, *, seconds: float) -> None:
    """Carry out a plan; if the node does not work then, undo everything and raise.

    `seconds` is how long the runtime and kubelet may each take to become healthy.
    """
    systemd = Systemd(root)
    systemd.check()
    journal = Journal(root)
    begun = journal.length
    previous = _target(root, release.CURRENT)
    try:
        if plan.is_new_release:
            journal.directory(plan.release.place, plan.release.copy)
        for path, text in plan.files.items():
            journal.write(path, _bytes(text))
        for path, target in plan.links.items():
            journal.link(path, target)
        digest = _settings_digest(root)
        systemd.reload()
        if root.is_running:
            is_running = begun > 0 and systemd.is_active(units.SOCKET)
            if is_running and (plan.changes_proxy or digest != journal.settings):
                systemd.restart_proxy()
            else:
                systemd.start_proxy()
            name = readiness.await_answer(plan.listen, seconds=seconds)
            report(f"the proxy is running: {name} answers at {plan.listen}")
        restarted = _point_kubelet(journal, plan, systemd, report) if plan.kubelet_files else None
        if root.is_running:
            for condition in readiness.await_node(
                root, plan.kubelet, plan.listen, since=restarted, seconds=seconds
            ):
                report(condition)
    except BaseException as error:
        report(f"rolling back: {str(error) or type(error).__name__}")
        _roll_back(root, journal, plan, begun)
        if isinstance(error, errors.CriProxyError):
            raise type(error)(f"{error}; the node is as it was before") from error
        raise
    journal.settle()
    for path in release.outdated(journal.directories(), plan.release, previous):
        journal.forget(path)
    journal.remember(runtime=plan.runtime, settings=digest)


def uninstall(root: Root, listen: str, report: Report, *, seconds: float) -> None:
    """Undo the installation; kubelet is pointed back to the runtime first."""
    journal = Journal(root)
    if journal.is_empty:
        raise errors.NotFound("cri-proxy is not installed on this node: there is nothing to do")
    systemd = Systemd(root)
    systemd.check()
    kubelet = kubelets.find(root)
    foreign = journal.undo(only_edits=True)
    systemd.reload()
    if root.is_running and kubelet.endpoint == f"unix://{listen}":
        restarted = datetime.now(UTC)
        systemd.restart(kubelet.unit)
        for condition in readiness.await_node(
            root, kubelets.find(root), None, since=restarted, seconds=seconds
        ):
            report(condition)
    systemd.stop_proxy()
    foreign += journal.undo()
    systemd.reload()
    _remove_runtime_directory(root, listen)
    for path in foreign:
        report(f"{path} was changed by another program meanwhile: only our part was removed")
    report("cri-proxy is removed from this node")


def refuse_in_use(root: Root, settings: Settings) -> None:
    """Raise RequestInvalid if a container on this node is running in an environment."""
    if not root.is_running:
        return
    count = asyncio.run(_containers(settings.runtime.endpoint))
    if count:
        raise errors.RequestInvalid(
            f"environments are in use on this node (running containers: {count}), and --purge "
            "would remove their files: drain the node first, or uninstall without --purge"
        )


def purge(root: Root, settings: Settings) -> None:
    """Remove the daemon's data from disk; call `refuse_in_use` first."""
    directory = root.real(str(settings.store.root))
    mounted = [each for each in directory.glob("mutable/*/store") if each.is_mount()]
    if mounted:
        raise errors.RequestInvalid(
            f"{mounted[0]} is still mounted: unmount it, then remove {directory}"
        )
    if directory.is_dir():
        shutil.rmtree(directory)


async def _containers(endpoint: Path) -> int:
    """Return the number of running containers with an environment."""
    async with channels.dial(endpoint) as channel:
        found = await Runtime(channel).containers()
    running = api_pb2.ContainerState.CONTAINER_RUNNING
    return sum(
        adjustment.IDENTITY_ANNOTATION in each.annotations and each.state == running
        for each in found
    )


def _roll_back(root: Root, journal: Journal, plan: InstallationPlan, begun: int) -> None:
    """Undo the steps from `begun` on, and restart what they had changed."""
    systemd = Systemd(root)
    is_kubelet_changed = journal.has_edits(begun)
    journal.undo(begun)
    with contextlib.suppress(errors.CriProxyError):  # the first error is the one to report
        systemd.reload()
        if is_kubelet_changed:
            systemd.restart(plan.kubelet.unit)
        if begun > 0:
            systemd.restart_proxy()
        else:
            systemd.stop_proxy()
            _remove_runtime_directory(root, plan.listen)


def _point_kubelet(
    journal: Journal, plan: InstallationPlan, systemd: Systemd, report: Report
) -> datetime:
    """Change kubelet's configuration and restart it; return when."""
    words = (f"unix://{plan.listen}", plan.kubelet.endpoint)
    for path, text in plan.kubelet_files.items():
        journal.write(path, _bytes(text), words=words)
        report(f"changed {path}")
    systemd.reload()
    restarted = datetime.now(UTC)
    systemd.restart(plan.kubelet.unit)
    return restarted


def _changed(root: Root, files: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in files.items() if root.text(path) != text}


def _settings_files(root: Root, runtime: str) -> dict[str, str]:
    """Return the settings file with the runtime's socket, if the daemon would use another one."""
    text = root.text(str(CONFIG_FILE)) or ""
    endpoint = tomllib.loads(text).get("runtime", {}).get("endpoint")
    if endpoint is not None:
        configured = str(kinds.unix_socket.of_toml(endpoint))
        if configured != runtime:
            raise errors.RequestInvalid(
                f"{CONFIG_FILE} sets runtime.endpoint to {configured}, but this installation found "
                f"{runtime}: set both to the same socket"
            )
    elif runtime != _DEFAULT_RUNTIME:
        return {str(CONFIG_FILE): editing.with_toml_value(text, "runtime", "endpoint", runtime)}
    return {}


def _access_of(root: Root, runtime: str) -> tuple[int, str, str]:
    """Return mode, user and group of the runtime's socket, which ours gets as well."""
    try:
        status = root.real(runtime).stat()
    except FileNotFoundError:
        return _SOCKET_MODE, "root", "root"
    return stat.S_IMODE(status.st_mode), *owners_of(status)


def _target(root: Root, path: str) -> str | None:
    place = root.at(path)
    return os.fspath(place.readlink()) if place.is_symlink() else None


def _settings_digest(root: Root) -> str | None:
    text = root.text(str(CONFIG_FILE))
    return None if text is None else hashlib.sha256(_bytes(text)).hexdigest()


def _remove_runtime_directory(root: Root, listen: str) -> None:
    directory = Path(listen).parent
    if directory.name == "cri-proxy":  # the default; another directory may be shared
        shutil.rmtree(root.at(str(directory)), ignore_errors=True)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
