"""Readiness of a node: a runtime, a kubelet and an API server that answer, or do not."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods
from cri_proxy.node import readiness, unitfiles
from cri_proxy.node.kubelets import Kubelet
from cri_proxy.node.readiness import Login
from cri_proxy.node.root import Root
from hack.cluster.certificates import Authority
from hack.testbed import ports
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.sites import Site
from tests.node.conftest import RunningRoot, Systemctl

UNIT = "kubelet.service"
HEARTBEAT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def kubeconfig(root: Path, *lines: str) -> Root:
    file = root / "etc/kubernetes/kubelet.conf"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(["    server: https://api.example:6443", *lines]) + "\n")
    return Root(root)


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def test_a_login_in_files_is_used_where_it_is(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.sign("kubelet", "system:node:a")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    root = kubeconfig(
        tmp_path / "root",
        f"    certificate-authority-data: {encoded(authority.certificate)}",
        f"    client-certificate: {both}",
        f"    client-key: {both}",
    )

    login = readiness.login_of(root, [])

    assert login is not None
    assert login.file == str(both)
    assert login.context().get_ca_certs()


def test_a_key_within_the_kubeconfig_is_left_in_no_other_file(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = authority.sign("kubelet", "system:node:a")
    root = kubeconfig(
        tmp_path / "root",
        f"    certificate-authority-data: {encoded(authority.certificate)}",
        f"    client-certificate-data: {encoded(certificate)}",
        f"    client-key-data: {encoded(key)}",
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    login = readiness.login_of(root, [])

    assert login is not None
    assert login.context().get_ca_certs()
    assert list(temporary.iterdir()) == []
    assert "PRIVATE KEY" not in repr(login)


def test_without_a_login_there_is_nothing_to_ask(tmp_path: Path) -> None:
    assert readiness.login_of(kubeconfig(tmp_path / "root"), []) is None


@pytest.mark.parametrize("missing", ["server", "authority", "key"])
def test_a_login_that_lacks_a_part_is_not_used(
    tmp_path: Path, authority: Authority, missing: str
) -> None:
    certificate, key = authority.sign("kubelet", "system:node:a")
    lines = {
        "server": "    server: https://api.example:6443",
        "authority": f"    certificate-authority-data: {encoded(authority.certificate)}",
        "certificate": f"    client-certificate-data: {encoded(certificate)}",
        "key": f"    client-key-data: {encoded(key)}",
    }
    file = tmp_path / "kubelet.conf"
    whole = list(lines.values())
    file.write_text("\n".join(whole))
    used = readiness.login_of(Root(), [f"--kubeconfig={file}"])

    file.write_text("\n".join(line for name, line in lines.items() if name != missing))

    assert used is not None
    assert readiness.login_of(Root(), [f"--kubeconfig={file}"]) is None


@pytest.fixture
def server(authority: Authority) -> Iterator[Site]:
    """An API server, whose certificate the authority has signed."""
    with Site() as running:
        running.speak_tls(*authority.sign("server", "apiserver", hosts=["127.0.0.1"]))
        yield running


@pytest.fixture
def login(authority: Authority, server: Site) -> Login:
    certificate, key = authority.sign("kubelet", "system:node:a")
    pem = certificate.read_text() + key.read_text()
    return Login(server.url, authority.certificate.read_text(), pem=pem)


def node(*conditions: dict[str, str]) -> bytes:
    return json.dumps({"status": {"conditions": conditions}}).encode()


def condition(status: str = "True", kind: str = "Ready") -> dict[str, str]:
    return {"type": kind, "status": status, "lastHeartbeatTime": "2026-01-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("since", "is_ready"),
    [
        (None, True),
        (HEARTBEAT - timedelta(seconds=1), True),
        (HEARTBEAT + timedelta(milliseconds=900), True),
        (HEARTBEAT + timedelta(seconds=1), False),
    ],
)
def test_only_a_report_since_the_restart_counts(
    login: Login, server: Site, since: datetime | None, is_ready: bool
) -> None:
    server.body = node(condition("False", "DiskPressure"), condition())

    assert login.is_ready("a", since=since) is is_ready
    assert server.asked == [("/api/v1/nodes/a", None)]


@pytest.mark.parametrize(
    "body", [node(condition("False")), node(condition("Unknown")), node(), b'{"status": {}}']
)
def test_a_node_that_is_not_reported_ready_is_not(login: Login, server: Site, body: bytes) -> None:
    server.body = body

    assert login.is_ready("a", since=None) is False


@pytest.mark.parametrize(
    ("status", "answer"), [(401, None), (403, None), (404, None), (429, False), (500, False)]
)
def test_a_node_that_may_not_be_read_is_no_failure(
    login: Login, server: Site, status: int, answer: bool | None
) -> None:
    server.status = status

    assert login.is_ready("a", since=None) is answer


async def test_the_runtime_that_answers_is_named(tmp_path: Path) -> None:
    version = api_pb2.VersionResponse(runtime_name="containerd", runtime_version="2.1.5")
    async with FakeRuntime(tmp_path / "p.sock") as runtime:
        runtime.answer(methods.path_of("Version"), version)

        name = await asyncio.to_thread(readiness.await_answer, str(runtime.socket), seconds=30)

    assert name == "containerd 2.1.5"


def test_a_socket_without_a_server_is_reported_when_the_time_is_up(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceUnreachable, match=r"no answer at .*/p\.sock within 0 seconds"):
        readiness.await_answer(str(tmp_path / "p.sock"), seconds=0)


def kubelet_of(*words: str, config: str | None = None) -> Kubelet:
    parts = [unitfiles.Word(word, "/unit") for word in words]
    return Kubelet(UNIT, "", unitfiles.Service(UNIT, parts, "", (), ()), config)


@pytest.fixture
def healthz() -> Iterator[Site]:
    """The healthz of kubelet."""
    with Site() as running:
        yield running


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[str]:
    """The socket of a proxy with one connection."""
    place = str(tmp_path / "p.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(place)
        server.listen()
        client.connect(place)
        with server.accept()[0]:
            yield place


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """The file system of a running node."""
    return RunningRoot(tmp_path / "root")


def await_node(root: Root, kubelet: Kubelet, listen: str | None) -> Sequence[str]:
    return readiness.await_node(root, kubelet, listen, since=None, seconds=0)


def port_of(site: Site) -> str:
    return site.url.rpartition(":")[2]


def test_a_healthy_node_is_reported_condition_by_condition(
    root: Root, systemctl: Systemctl, healthz: Site, listen: str
) -> None:
    systemctl.activate(UNIT)

    seen = await_node(root, kubelet_of(f"--healthz-port={port_of(healthz)}"), listen)

    assert seen == [
        "kubelet.service is running",
        "kubelet's healthz says ok",
        f"kubelet is connected to {listen}",
    ]
    assert healthz.asked == [("/healthz", None)]


def test_the_connection_does_not_matter_after_an_uninstallation(
    root: Root, systemctl: Systemctl, healthz: Site
) -> None:
    systemctl.activate(UNIT)

    assert len(await_node(root, kubelet_of(f"--healthz-port={port_of(healthz)}"), None)) == 2


def test_a_kubelet_that_is_not_running_fails(root: Root, systemctl: Systemctl) -> None:
    with pytest.raises(
        errors.SourceUnreachable, match=r"0 seconds: kubelet\.service is running; see"
    ):
        await_node(root, kubelet_of(), None)

    assert systemctl.calls == [f"is-active {UNIT}"]


def test_a_kubelet_that_is_not_healthy_fails(
    root: Root, systemctl: Systemctl, healthz: Site
) -> None:
    systemctl.activate(UNIT)
    healthz.status = 500

    with pytest.raises(errors.SourceUnreachable, match="0 seconds: kubelet's healthz says ok"):
        await_node(root, kubelet_of(f"--healthz-port={port_of(healthz)}"), None)


def test_a_kubelet_that_is_not_connected_to_the_proxy_fails(
    root: Root, systemctl: Systemctl, healthz: Site, tmp_path: Path
) -> None:
    systemctl.activate(UNIT)
    place = str(tmp_path / "idle.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()

        with pytest.raises(errors.SourceUnreachable, match=f"kubelet is connected to {place}"):
            await_node(root, kubelet_of(f"--healthz-port={port_of(healthz)}"), place)


def test_a_kubelet_without_healthz_is_not_asked_for_it(root: Root, systemctl: Systemctl) -> None:
    systemctl.activate(UNIT)

    seen = await_node(root, kubelet_of("--healthz-port=0"), None)

    assert seen[1] == "kubelet's healthz says ok: not checked"


@pytest.mark.parametrize("text", ["a: b\nhealthzPort: {port}\n", '{{"healthzPort": {port}}}'])
def test_the_port_of_healthz_is_read_from_kubelets_file(
    root: Root, systemctl: Systemctl, healthz: Site, text: str
) -> None:
    systemctl.activate(UNIT)
    root.directory.mkdir()
    (root.directory / "config").write_text(text.format(port=port_of(healthz)))

    await_node(root, kubelet_of(config="/config"), None)

    assert healthz.asked == [("/healthz", None)]


def test_the_flag_overrides_the_port_of_the_file(
    root: Root, systemctl: Systemctl, healthz: Site
) -> None:
    systemctl.activate(UNIT)
    root.directory.mkdir()
    (root.directory / "config").write_text("healthzPort: 1\n")

    await_node(root, kubelet_of(f"--healthz-port={port_of(healthz)}", config="/config"), None)

    assert healthz.asked == [("/healthz", None)]


def test_the_api_server_is_asked_for_the_node_by_its_name(
    root: Root, systemctl: Systemctl, healthz: Site, server: Site, authority: Authority
) -> None:
    systemctl.activate(UNIT)
    server.body = node(condition())
    file = authority.kubeconfig("kubelet", "system:node:a", server.url)
    place = root.at("/etc/kubernetes/kubelet.conf")
    place.parent.mkdir(parents=True)
    lines = [
        f"server: {server.url}",
        *(
            f"{key}: {value}"
            for part in ("cluster", "user")
            for each in json.loads(file.read_text())[f"{part}s"]
            for key, value in each[part].items()
            if key != "server"
        ),
    ]
    place.write_text("\n".join(lines))
    words = ("--hostname-override=a", f"--healthz-port={port_of(healthz)}")

    seen = await_node(root, kubelet_of(*words), None)

    assert seen[-1] == "node a is Ready"
    assert server.asked == [("/api/v1/nodes/a", None)]


def test_a_node_that_is_not_ready_fails(
    root: Root, systemctl: Systemctl, login: Login, server: Site, tmp_path: Path
) -> None:
    systemctl.activate(UNIT)
    server.body = node(condition("False"))
    pem = tmp_path / "both.pem"
    pem.write_text(login.pem)
    place = root.at("/etc/kubernetes/kubelet.conf")
    place.parent.mkdir(parents=True)
    trusted = base64.b64encode(login.authority.encode()).decode()
    place.write_text(
        f"server: {server.url}\ncertificate-authority-data: {trusted}\nclient-certificate: {pem}\n"
    )

    with pytest.raises(errors.SourceUnreachable, match="0 seconds: node a is Ready"):
        await_node(root, kubelet_of("--hostname-override=a", "--healthz-port=0"), None)


def test_a_kubelet_that_does_not_serve_healthz_fails(root: Root, systemctl: Systemctl) -> None:
    systemctl.activate(UNIT)
    with ports.kept() as port:
        kubelet = kubelet_of(f"--healthz-port={port}")

        with pytest.raises(errors.SourceUnreachable, match="0 seconds: kubelet's healthz says ok"):
            await_node(root, kubelet, None)
