"""kubelet's own login, as `install` asks the API server with it."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import pytest

from cri_proxy.node import readiness
from cri_proxy.node.root import Root
from hack.cluster.certificates import Authority


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
