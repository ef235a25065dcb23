"""The proxy's units, read as systemd reads them."""

from __future__ import annotations

import configparser
from pathlib import Path

from cri_proxy.node import unitfiles, units
from cri_proxy.node.root import Root


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_socket_has_the_mode_and_owner_of_the_runtimes() -> None:
    unit = parsed(units.socket_of("/run/p.sock", mode=0o640, user="root", group="crio"))["Socket"]

    assert unit["ListenStream"] == "/run/p.sock"
    assert (unit["SocketMode"], unit["SocketUser"], unit["SocketGroup"]) == ("0640", "root", "crio")


def test_the_service_starts_the_daemon_with_its_program(tmp_path: Path) -> None:
    root = Root(tmp_path)
    file = root.at(f"{units.DIRECTORY}/{units.SERVICE}")
    file.parent.mkdir(parents=True)
    file.write_text(units.service_of("/usr/bin/python3 -m cri_proxy"))

    service = unitfiles.service_of(root, units.SERVICE)

    assert service is not None
    assert [word.text for word in service.words] == [
        *("/usr/bin/python3", "-m", "cri_proxy", "serve")
    ]


def test_the_service_gets_its_socket_and_does_not_depend_on_the_runtime() -> None:
    unit = parsed(units.service_of("cri-proxy"))["Unit"]

    assert unit["Requires"] == units.SOCKET
    assert "containerd.service" in unit["After"].split()
    assert "kubelet.service" in unit["Before"].split()


def test_the_service_shares_the_mounts_of_the_node() -> None:
    text = units.service_of("cri-proxy")

    options = ("Private", "Protect", "ReadOnlyPaths", "TemporaryFileSystem", "RootDirectory")
    assert not any(line.startswith(options) for line in text.splitlines())


def test_both_units_are_enabled_as_systemctl_would() -> None:
    assert units.enablement() == {
        "/etc/systemd/system/sockets.target.wants/cri-proxy.socket": (
            "/etc/systemd/system/cri-proxy.socket"
        ),
        "/etc/systemd/system/multi-user.target.wants/cri-proxy.service": (
            "/etc/systemd/system/cri-proxy.service"
        ),
    }
