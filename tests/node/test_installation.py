"""Installation and uninstallation, of the images of nodes and of a running one."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods
from cri_proxy.interposer import adjustment
from cri_proxy.node import changes, installation, kubelets, units
from cri_proxy.node.root import Root
from cri_proxy.settings import Settings
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.sites import Site
from tests.node.conftest import NODES, PROXY, Make, RunningRoot, Systemctl, snapshot

SETTINGS = Settings()


def install(root: Root) -> installation.InstallationPlan:
    plan = installation.plan_of(root, SETTINGS, is_runtime_set=False)
    installation.install(root, plan, lambda _: None, seconds=1)
    return plan


@pytest.mark.parametrize("kind", NODES)
def test_kubelet_speaks_to_the_proxy_when_installed(make: Make, kind: str) -> None:
    root = make(kind)

    install(root)

    assert kubelets.find(root).endpoint == PROXY


@pytest.mark.parametrize("kind", NODES)
def test_uninstalling_restores_every_byte_mode_owner_and_time(make: Make, kind: str) -> None:
    root = make(kind)
    before = snapshot(root)

    install(root)
    installation.uninstall(root, str(SETTINGS.serve.listen), lambda _: None, seconds=1)

    assert snapshot(root) == before


@pytest.mark.parametrize("kind", NODES)
def test_installing_again_changes_nothing(make: Make, kind: str) -> None:
    root = make(kind)
    install(root)
    before = snapshot(root)

    again = installation.plan_of(root, SETTINGS, is_runtime_set=False)

    assert again.is_empty, again.diff(root)
    assert snapshot(root) == before


@pytest.mark.parametrize("kind", NODES)
def test_planning_changes_nothing(make: Make, kind: str) -> None:
    root = make(kind)
    before = snapshot(root)

    diff = installation.plan_of(root, SETTINGS, is_runtime_set=False).diff(root)

    assert PROXY in diff
    assert snapshot(root) == before


def test_one_line_of_kubelets_file_is_changed(make: Make) -> None:
    root = make("kubeadm-flags")
    path = "/var/lib/kubelet/kubeadm-flags.env"
    before = (root.text(path) or "").replace("unix:///run/containerd/containerd.sock", PROXY)

    plan = install(root)

    assert list(plan.kubelet_files) == [path]
    assert root.text(path) == before


def test_the_source_of_kubeadm_is_changed_with_the_file(make: Make) -> None:
    plan = install(make("kubeadm-instance"))

    assert {Path(path).name for path in plan.kubelet_files} == {
        "config.yaml",
        "instance-config.yaml",
    }


def test_a_drop_in_is_used_where_kubelet_honours_one(make: Make) -> None:
    plan = install(make("drop-in-directory"))

    assert list(plan.kubelet_files) == ["/etc/kubelet.d/90-cri-proxy.conf"]


def test_a_vendors_unit_is_not_written_to(make: Make) -> None:
    plan = install(make("vendor-unit"))

    assert list(plan.kubelet_files) == ["/etc/systemd/system/kubelet.service.d/90-cri-proxy.conf"]


def test_the_runtime_that_kubelet_used_is_put_into_the_settings(make: Make) -> None:
    root = make("crio")

    plan = install(root)

    assert plan.runtime == "/run/crio/crio.sock"
    assert 'endpoint = "/run/crio/crio.sock"' in (root.text("/etc/cri-proxy/config.toml") or "")


def test_settings_that_are_there_are_kept(make: Make) -> None:
    root = make("crio")
    settings = root.at("/etc/cri-proxy/config.toml")
    settings.parent.mkdir(parents=True)
    settings.write_text('[runtime]\nhandlers = {flox = "crun"}\n')

    install(root)

    assert settings.read_text() == (
        '[runtime]\nendpoint = "/run/crio/crio.sock"\nhandlers = {flox = "crun"}\n'
    )


def test_a_runtime_in_the_settings_may_be_written_as_kubelet_writes_it(make: Make) -> None:
    root = make("crio")
    file = root.at("/etc/cri-proxy/config.toml")
    file.parent.mkdir(parents=True)
    file.write_text('[runtime]\nendpoint = "unix:///run/crio/crio.sock"\n')

    assert install(root).runtime == "/run/crio/crio.sock"


def test_what_others_changed_meanwhile_is_not_overwritten(make: Make) -> None:
    root = make("kubeadm-instance")
    file = root.at("/var/lib/kubelet/config.yaml")
    original = file.read_text()
    install(root)
    file.write_text(file.read_text() + "maxPods: 42\n")
    reported: list[str] = []

    installation.uninstall(root, str(SETTINGS.serve.listen), reported.append, seconds=1)

    assert file.read_text() == original + "maxPods: 42\n"
    assert any("/var/lib/kubelet/config.yaml" in line for line in reported)


def test_what_was_interrupted_is_taken_back_from_the_journal(make: Make) -> None:
    root = make("kubeadm-flags")
    before = snapshot(root)
    plan = installation.plan_of(root, SETTINGS, is_runtime_set=False)
    journal = changes.Journal(root)
    path, text = next(iter(plan.files.items()))
    journal.write(path, text.encode())
    ((path, text),) = plan.kubelet_files.items()
    journal.write(path, text.encode(), words=(PROXY, plan.kubelet.endpoint))

    changes.Journal(root).undo()

    assert snapshot(root) == before


def test_a_failure_on_the_way_leaves_nothing(make: Make) -> None:
    root = make("kubeadm-flags")
    before = snapshot(root)
    plan = installation.plan_of(root, SETTINGS, is_runtime_set=False)

    def fail_late(line: str) -> None:
        if line.startswith("changed"):
            raise errors.SourceUnreachable("the node is gone")

    with pytest.raises(errors.SourceUnreachable, match="as it was before"):
        installation.install(root, plan, fail_late, seconds=1)

    assert snapshot(root) == before


def test_uninstalling_twice_is_refused(make: Make) -> None:
    root = make("kubeadm-flags")

    with pytest.raises(errors.NotFound, match="not installed"):
        installation.uninstall(root, str(SETTINGS.serve.listen), lambda _: None, seconds=1)


def test_a_node_without_kubelet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="kubelet"):
        installation.plan_of(Root(tmp_path), SETTINGS, is_runtime_set=False)


@pytest.mark.parametrize("endpoint", ["/run/other.sock", "unix:///run/other.sock"])
def test_a_runtime_that_contradicts_the_settings_file_is_refused(make: Make, endpoint: str) -> None:
    root = make("crio")
    file = root.at("/etc/cri-proxy/config.toml")
    file.parent.mkdir(parents=True)
    file.write_text(f'[runtime]\nendpoint = "{endpoint}"\n')

    with pytest.raises(errors.RequestInvalid, match=r"/run/other\.sock, but this .* /run/crio/"):
        install(root)


def test_a_runtime_that_was_set_is_not_looked_for(make: Make) -> None:
    root = make("crio")
    runtime = dataclasses.replace(SETTINGS.runtime, endpoint=Path("/run/set.sock"))

    plan = installation.plan_of(
        root, dataclasses.replace(SETTINGS, runtime=runtime), is_runtime_set=True
    )

    assert plan.runtime == "/run/set.sock"
    assert any('endpoint = "/run/set.sock"' in text for text in plan.files.values())


def test_the_socket_of_the_proxy_is_as_open_as_that_of_the_runtime(make: Make) -> None:
    root = make("kubeadm-flags")
    runtime = root.at("/run/containerd/containerd.sock")
    runtime.parent.mkdir(parents=True)
    runtime.touch(mode=0o600)

    install(root)

    text = root.text("/etc/systemd/system/cri-proxy.socket") or ""
    assert "SocketMode=0600\n" in text


def test_without_a_runtime_the_socket_is_for_root_and_its_group(make: Make) -> None:
    root = make("kubeadm-flags")

    install(root)

    lines = (root.text("/etc/systemd/system/cri-proxy.socket") or "").splitlines()
    assert {"SocketMode=0660", "SocketUser=root", "SocketGroup=root"} <= set(lines)


def test_the_units_are_enabled(make: Make) -> None:
    root = make("kubeadm-flags")

    install(root)

    for path, target in units.enablement().items():
        assert root.at(path).readlink() == Path(target)
        assert root.at(target).is_file()


def test_a_link_that_points_elsewhere_is_corrected(make: Make) -> None:
    root = make("kubeadm-flags")
    install(root)
    (path, target), *_ = units.enablement().items()
    root.at(path).unlink()
    root.at(path).symlink_to("/elsewhere")

    plan = install(root)

    assert plan.links == {path: target}
    assert root.at(path).readlink() == Path(target)


def test_purging_removes_the_store(make: Make) -> None:
    root = make("kubeadm-flags")
    file = root.at(f"{SETTINGS.store.root}/store/path")
    file.parent.mkdir(parents=True)
    file.touch()

    installation.purge(root, SETTINGS)

    assert not root.at(str(SETTINGS.store.root)).exists()


def test_an_image_runs_no_containers(make: Make) -> None:
    installation.refuse_in_use(make("kubeadm-flags"), SETTINGS)


class Node:
    """A running node: systemctl, the proxy's socket and kubelet's healthz are stand-ins."""

    def __init__(self, root: Root, systemctl: Systemctl, healthz: Site, listen: Path) -> None:
        self.root = root
        self.systemctl = systemctl
        self.healthz = healthz
        self.settings = dataclasses.replace(
            SETTINGS, serve=dataclasses.replace(SETTINGS.serve, listen=listen)
        )
        self.reported: list[str] = []

    async def install(self) -> None:
        self.systemctl.forget_calls()
        plan = installation.plan_of(self.root, self.settings, is_runtime_set=False)
        await asyncio.to_thread(
            installation.install, self.root, plan, self.reported.append, seconds=0
        )

    async def uninstall(self) -> None:
        self.systemctl.forget_calls()
        await asyncio.to_thread(
            installation.uninstall,
            *(self.root, str(self.settings.serve.listen), self.reported.append),
            seconds=0,
        )


@pytest.fixture
async def node(make: Make, systemctl: Systemctl, tmp_path: Path) -> AsyncIterator[Node]:
    """A node with a healthy kubelet, which is connected to what serves the proxy's socket."""
    root = RunningRoot(make("kubeadm-flags").directory)
    systemctl.activate("kubelet.service")
    version = api_pb2.VersionResponse(runtime_name="containerd", runtime_version="2.1.5")
    async with FakeRuntime(tmp_path / "proxy.sock") as proxy:
        proxy.answer(methods.path_of("Version"), version)
        with Site() as healthz, socket.socket(socket.AF_UNIX) as kubelet:
            kubelet.connect(str(proxy.socket))
            config = root.at("/var/lib/kubelet/config.yaml")
            config.write_text(f"healthzPort: {healthz.url.rpartition(':')[2]}\n")
            yield Node(root, systemctl, healthz, proxy.socket)


def without_journal(found: Mapping[str, object]) -> dict[str, object]:
    """Return a snapshot without the journal, which is written by every run."""
    journal = changes.DIRECTORY.lstrip("/")
    return {path: kept for path, kept in found.items() if path != f"{journal}/journal.json"}


PUT_IN_PLACE = ["is-system-running", "daemon-reload"]
START = ["start cri-proxy.socket", "start cri-proxy.service"]
RESTART = ["reset-failed cri-proxy.service", "restart cri-proxy.service"]
STOP = [f"{verb} cri-proxy.service cri-proxy.socket" for verb in ("stop", "reset-failed")]
RESTART_KUBELET = ["daemon-reload", "try-restart kubelet.service"]
LOOK_AT_KUBELET = ["is-active kubelet.service"]


async def test_the_proxy_is_started_before_kubelet_is_pointed_to_it(node: Node) -> None:
    await node.install()

    assert node.systemctl.calls == [*PUT_IN_PLACE, *START, *RESTART_KUBELET, *LOOK_AT_KUBELET]
    assert node.reported == [
        f"the proxy is running: containerd 2.1.5 answers at {node.settings.serve.listen}",
        "changed /var/lib/kubelet/kubeadm-flags.env",
        "kubelet.service is running",
        "kubelet's healthz says ok",
        f"kubelet is connected to {node.settings.serve.listen}",
    ]


async def test_a_node_that_does_not_become_healthy_is_rolled_back(node: Node) -> None:
    before = snapshot(node.root)
    node.healthz.status = 500

    with pytest.raises(errors.SourceUnreachable, match=r"healthz says ok.* as it was before$"):
        await node.install()

    assert snapshot(node.root) == before
    assert node.systemctl.calls[-4:] == [*RESTART_KUBELET, *STOP]
    assert node.reported[-1].startswith("rolling back: not true after 0 seconds")


async def test_a_proxy_that_does_not_start_leaves_kubelet_alone(node: Node) -> None:
    before = snapshot(node.root)
    node.systemctl.refuse("start")

    with pytest.raises(errors.SourceUnreachable, match=r"start cri-proxy\.socket failed"):
        await node.install()

    assert snapshot(node.root) == before
    assert node.systemctl.calls == [*PUT_IN_PLACE, *START[:1], "daemon-reload", *STOP]


async def test_installing_again_restarts_nothing(node: Node) -> None:
    await node.install()
    before = snapshot(node.root)

    await node.install()

    is_active = "is-active cri-proxy.socket"
    assert node.systemctl.calls == [*PUT_IN_PLACE, is_active, *START, *LOOK_AT_KUBELET]
    assert without_journal(snapshot(node.root)) == without_journal(before)


async def test_changed_settings_restart_the_daemon_and_not_kubelet(node: Node) -> None:
    await node.install()
    file = node.root.at("/etc/cri-proxy/config.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('[log]\nlevel = "debug"\n')

    await node.install()
    calls = node.systemctl.calls
    await node.install()

    assert calls[3:] == [*RESTART, *LOOK_AT_KUBELET]
    assert node.systemctl.calls[3:] == [*START, *LOOK_AT_KUBELET]


async def test_a_changed_unit_restarts_the_daemon(node: Node) -> None:
    await node.install()
    unit = node.root.at("/etc/systemd/system/cri-proxy.service")
    unit.write_text("[Service]\n")

    await node.install()

    assert node.systemctl.calls[3:] == [*RESTART, *LOOK_AT_KUBELET]
    assert "ExecStart=" in unit.read_text()


async def test_a_daemon_whose_socket_is_down_is_started(node: Node) -> None:
    await node.install()
    (node.systemctl.directory / "units/cri-proxy.socket").unlink()
    node.root.at("/etc/systemd/system/cri-proxy.service").write_text("[Service]\n")

    await node.install()

    assert node.systemctl.calls[3:] == [*START, *LOOK_AT_KUBELET]


async def test_a_failed_upgrade_restarts_the_old_daemon_and_not_kubelet(node: Node) -> None:
    await node.install()
    unit = node.root.at("/etc/systemd/system/cri-proxy.service")
    unit.write_text("[Service]\n")
    before = snapshot(node.root)
    node.healthz.status = 500

    with pytest.raises(errors.SourceUnreachable):
        await node.install()

    assert without_journal(snapshot(node.root)) == without_journal(before)
    assert node.systemctl.calls[3:] == [*RESTART, *LOOK_AT_KUBELET, "daemon-reload", *RESTART]


async def test_kubelet_is_back_at_the_runtime_before_the_proxy_is_stopped(node: Node) -> None:
    before = snapshot(node.root)
    await node.install()
    node.reported.clear()

    await node.uninstall()

    assert node.systemctl.calls == [
        *("is-system-running", *RESTART_KUBELET, *LOOK_AT_KUBELET, *STOP, "daemon-reload")
    ]
    assert node.reported[-1] == "cri-proxy is removed from this node"
    assert snapshot(node.root) == before


async def test_a_kubelet_that_does_not_use_the_proxy_is_not_restarted(node: Node) -> None:
    await node.install()
    node.root.at("/var/lib/kubelet/kubeadm-flags.env").write_text("KUBELET_KUBEADM_ARGS=\n")

    await node.uninstall()

    assert "try-restart kubelet.service" not in node.systemctl.calls
    assert any("was changed by another program" in line for line in node.reported)


async def test_the_proxy_stays_while_kubelet_is_not_healthy_without_it(node: Node) -> None:
    await node.install()
    node.healthz.status = 500

    with pytest.raises(errors.SourceUnreachable):
        await node.uninstall()

    assert not any(call.startswith("stop") for call in node.systemctl.calls)
    assert node.root.text("/etc/systemd/system/cri-proxy.service") is not None


def container(state: int, *, has_environment: bool) -> api_pb2.Container:
    annotations = {adjustment.IDENTITY_ANNOTATION: "x"} if has_environment else {}
    return api_pb2.Container(id="a", state=state, annotations=annotations)


@pytest.mark.parametrize(
    ("states", "refusal"),
    [
        ([(api_pb2.CONTAINER_RUNNING, True)], "running containers: 1"),
        ([(api_pb2.CONTAINER_RUNNING, True)] * 2, "running containers: 2"),
        ([(api_pb2.CONTAINER_RUNNING, False), (api_pb2.CONTAINER_EXITED, True)], None),
        ([], None),
    ],
)
async def test_environments_in_use_are_not_purged(
    tmp_path: Path, states: list[tuple[int, bool]], refusal: str | None
) -> None:
    listed = [container(state, has_environment=has) for state, has in states]
    async with FakeRuntime(tmp_path / "r.sock") as runtime:
        runtime.answer(
            methods.path_of("ListContainers"), api_pb2.ListContainersResponse(containers=listed)
        )
        used = dataclasses.replace(SETTINGS.runtime, endpoint=runtime.socket)
        look: Callable[[], None] = lambda: installation.refuse_in_use(  # noqa: E731
            RunningRoot(tmp_path), dataclasses.replace(SETTINGS, runtime=used)
        )

        if refusal is None:
            await asyncio.to_thread(look)
        else:
            with pytest.raises(errors.RequestInvalid, match=refusal):
                await asyncio.to_thread(look)
