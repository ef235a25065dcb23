"""Installing and taking off: in which order, and back again by itself if it does not work.

    1. program, units, settings       nobody uses them yet
    2. the proxy is started           and the runtime has to answer through it
    3. kubelet's configuration        one line of it, as `kubelets` finds
    4. kubelet is restarted           and the node has to be Ready again

Whatever fails, or interrupts, has all steps of this run taken back, the latest first, and kubelet
restarted if it had been touched. Installing once more is an upgrade: what is the same already is
left alone, the daemon is restarted behind its socket, and kubelet is not touched. Uninstalling is 4
to 1 with the originals.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import grp
import hashlib
import os
import pwd
import shutil
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
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
from cri_proxy.node.root import Root
from cri_proxy.node.systemd import Systemd
from cri_proxy.settings import CONFIG_FILE, Settings, kinds

Tell = Callable[[str], None]
_DEFAULT_RUNTIME: Final = "/run/containerd/containerd.sock"
_SOCKET_MODE: Final = 0o660


@dataclass(frozen=True, slots=True)
class File:
    """A file that is to say `text`; `words` are ours, and what stood there before."""

    path: str
    text: str
    words: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class InstallationPlan:
    """All that an installation changes; what is so already is not in it."""

    kubelet: Kubelet
    runtime: str
    listen: str
    release: Release
    is_new_release: bool
    files: list[File] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    kubelet_files: list[File] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.is_new_release or self.files or self.links or self.kubelet_files)

    def diff(self, root: Root) -> str:
        """Return it as a person reads it before it is done."""
        lines = []
        if self.is_new_release:
            lines.append(f"copy {self.release.tree} to {self.release.place}\n")
        for file in [*self.files, *self.kubelet_files]:
            before = root.text(file.path)
            lines += difflib.unified_diff(
                [] if before is None else before.splitlines(keepends=True),
                file.text.splitlines(keepends=True),
                "/dev/null" if before is None else file.path,
                file.path,
            )
        lines += [f"link {path} -> {target}\n" for path, target in self.links.items()]
        if self.kubelet_files:
            lines.append(f"restart {self.kubelet.unit}\n")
        return "".join(lines)


def plan_of(root: Root, settings: Settings, *, is_runtime_set: bool) -> InstallationPlan:
    """Return what an installation would change; nothing is changed.

    Raises NotFound without kubelet or runtime, RequestInvalid for a configuration that cannot be
    changed safely.
    """
    journal = Journal(root)
    kubelet = kubelets.find(root)
    listen = str(settings.serve.listen)
    found = release.present()
    if is_runtime_set:
        runtime = str(settings.runtime.endpoint)
    else:
        runtime = runtimes.find(root, kubelet.endpoint, ours=listen, remembered=journal.runtime)
    mode, user, group = _access_of(root, runtime)
    wanted = [
        File(
            f"{units.DIRECTORY}/{units.SOCKET}",
            units.socket_of(listen, mode=mode, user=user, group=group),
        ),
        File(f"{units.DIRECTORY}/{units.SERVICE}", units.service_of(found.program)),
    ]
    configured = _configured_runtime(root)
    if configured is not None and configured != runtime:
        raise errors.RequestInvalid(
            f"{CONFIG_FILE}, which the daemon reads, says that the runtime is at {configured}, and "
            f"this command that it is at {runtime}: name the same in both"
        )
    if configured is None and runtime != _DEFAULT_RUNTIME:
        text = editing.with_toml_value(
            root.text(str(CONFIG_FILE)) or "", "runtime", "endpoint", runtime
        )
        wanted.append(File(str(CONFIG_FILE), text))
    links = units.enablement()
    if found.tree is not None:
        links |= {
            release.CURRENT: f"releases/{found.name}",
            release.COMMAND: f"{release.CURRENT}/bin/cri-proxy",
        }
    endpoint = f"unix://{listen}"
    edited = [] if kubelet.endpoint == endpoint else kubelets.edits(root, kubelet, endpoint)
    return InstallationPlan(
        kubelet,
        runtime,
        listen,
        found,
        is_new_release=found.tree is not None and not root.at(found.place).exists(),
        files=[each for each in wanted if root.text(each.path) != each.text],
        links={path: target for path, target in links.items() if _target(root, path) != target},
        kubelet_files=[
            File(each.path, each.text, (endpoint, kubelet.endpoint))
            for each in edited
            if root.text(each.path) != each.text
        ],
    )


def install(root: Root, plan: InstallationPlan, tell: Tell, *, seconds: float) -> None:
    """Do what the plan says; raise with everything taken back if the node does not work then.

    `seconds` is how long each of runtime and kubelet may take to be well again.
    """
    host = Systemd(root)
    host.check()
    journal = Journal(root)
    is_first, begun = journal.is_empty, journal.length
    previous = _target(root, release.CURRENT)
    settings: str | None = None
    is_touched = False
    restarted: datetime | None = None
    try:
        _put_in_place(journal, plan)
        settings = _settings_digest(root)
        host.reload()
        if root.is_running:
            if is_first or not host.is_active(units.SOCKET):
                host.start_proxy()
            elif plan.is_new_release or plan.files or plan.links or settings != journal.settings:
                host.restart_proxy()
            else:
                host.start_proxy()
            name = readiness.await_answer(plan.listen, seconds=seconds)
            tell(f"the proxy runs, {name} answers through it at {plan.listen}")
        if plan.kubelet_files:
            is_touched = True
            for file in plan.kubelet_files:
                journal.write(file.path, _bytes(file.text), words=file.words)
                tell(f"changed {file.path}")
            host.reload()
            restarted = datetime.now(UTC)
            host.restart(plan.kubelet.unit)
        if root.is_running:
            for seen in readiness.await_node(
                root, plan.kubelet, plan.listen, since=restarted, seconds=seconds
            ):
                tell(seen)
    except BaseException as error:
        tell(f"taking everything back: {str(error) or type(error).__name__}")
        journal.take_back(begun)
        with contextlib.suppress(errors.CriProxyError):  # the first failure is the one to tell
            host.reload()
            if is_touched:
                host.restart(plan.kubelet.unit)
            if is_first:
                host.stop_proxy()
                _remove_runtime_directory(root, plan.listen)
            else:
                host.restart_proxy()
        if isinstance(error, errors.CriProxyError):
            raise type(error)(f"{error}; the node is as it was before") from error
        raise
    journal.settle()
    for path in release.outdated(journal.directories(), plan.release, previous):
        journal.forget(path)
    journal.remember(runtime=plan.runtime, settings=settings)


def uninstall(root: Root, listen: str, tell: Tell, *, seconds: float) -> None:
    """Take off what was installed: kubelet goes back to the runtime first."""
    journal = Journal(root)
    if journal.is_empty:
        raise errors.NotFound("cri-proxy is not installed on this node: there is nothing to do")
    host = Systemd(root)
    host.check()
    kubelet = kubelets.find(root)
    foreign = journal.take_back_words()
    host.reload()
    if root.is_running and kubelet.endpoint == f"unix://{listen}":
        restarted = datetime.now(UTC)
        host.restart(kubelet.unit)
        for seen in readiness.await_node(
            root, kubelets.find(root), None, since=restarted, seconds=seconds
        ):
            tell(seen)
    host.stop_proxy()
    foreign += journal.take_back()
    host.reload()
    _remove_runtime_directory(root, listen)
    for path in foreign:
        tell(f"{path} was changed by somebody else meanwhile: only our own words were taken out")
    tell("cri-proxy is off this node")


def refuse_in_use(root: Root, settings: Settings) -> None:
    """Raise RequestInvalid while a container on this node runs in an environment."""
    if not root.is_running:
        return
    count = asyncio.run(_containers(settings.runtime.endpoint))
    if count:
        raise errors.RequestInvalid(
            f"containers on this node run in an environment, whose files would go ({count} of "
            "them): drain the node first, or uninstall without --purge"
        )


def purge(root: Root, settings: Settings) -> None:
    """Remove all that the daemon kept on disk; call `refuse_in_use` before."""
    directory = root.real(str(settings.store.root))
    mounted = [each for each in directory.glob("mutable/*/store") if each.is_mount()]
    if mounted:
        raise errors.RequestInvalid(f"{mounted[0]} is still mounted: unmount it, then remove it")
    if directory.is_dir():
        shutil.rmtree(directory)


async def _containers(endpoint: Path) -> int:
    """Return how many containers run in an environment."""
    async with channels.dial(endpoint) as channel:
        found = await Runtime(channel).containers()
    running = api_pb2.ContainerState.CONTAINER_RUNNING
    return sum(
        adjustment.IDENTITY_ANNOTATION in each.annotations and each.state == running
        for each in found
    )


def _put_in_place(journal: Journal, plan: InstallationPlan) -> None:
    if plan.is_new_release:
        journal.directory(plan.release.place, plan.release.copy)
    for file in plan.files:
        journal.write(file.path, _bytes(file.text))
    for path, target in plan.links.items():
        journal.link(path, target)


def _access_of(root: Root, runtime: str) -> tuple[int, str, str]:
    """Return mode, user and group of the runtime's socket: whoever may use it may use ours."""
    try:
        status = root.real(runtime).stat()
    except FileNotFoundError:
        return _SOCKET_MODE, "root", "root"
    try:
        user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        user, group = str(status.st_uid), str(status.st_gid)
    return stat.S_IMODE(status.st_mode), user, group


def _target(root: Root, path: str) -> str | None:
    place = root.at(path)
    return os.fspath(place.readlink()) if place.is_symlink() else None


def _configured_runtime(root: Root) -> str | None:
    """Return the path of the runtime's socket that the node's settings file names."""
    table = tomllib.loads(root.text(str(CONFIG_FILE)) or "")
    endpoint = table.get("runtime", {}).get("endpoint")
    return None if endpoint is None else str(kinds.unix_socket().of_toml(endpoint))


def _settings_digest(root: Root) -> str | None:
    text = root.text(str(CONFIG_FILE))
    return None if text is None else hashlib.sha256(_bytes(text)).hexdigest()


def _remove_runtime_directory(root: Root, listen: str) -> None:
    directory = Path(listen).parent
    if directory.name == "cri-proxy":  # as by default; another may be somebody else's
        shutil.rmtree(root.at(str(directory)), ignore_errors=True)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
