"""Installing into the images of nodes, and taking off again."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node import changes, installation, kubelets
from cri_proxy.node.root import Root
from cri_proxy.settings import Settings
from tests.node.conftest import NODES, PROXY, Make

SETTINGS = Settings()


def snapshot(root: Root) -> dict[str, tuple[object, ...]]:
    """Return all that there is: modes, owners, times of files, and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.directory.rglob("*")):
        status = path.lstat()
        kept: tuple[object, ...] = (status.st_mode, status.st_uid, status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            kept = (*kept, os.fspath(path.readlink()))
        elif stat.S_ISREG(status.st_mode):
            kept = (*kept, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        found[str(path.relative_to(root.directory))] = kept
    return found


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

    assert [each.path for each in plan.kubelet_files] == [path]
    assert root.text(path) == before


def test_the_source_of_kubeadm_is_changed_with_the_file(make: Make) -> None:
    plan = install(make("kubeadm-instance"))

    assert {Path(each.path).name for each in plan.kubelet_files} == {
        "config.yaml",
        "instance-config.yaml",
    }


def test_a_drop_in_is_used_where_kubelet_honours_one(make: Make) -> None:
    plan = install(make("drop-in-directory"))

    assert [each.path for each in plan.kubelet_files] == ["/etc/kubelet.d/90-cri-proxy.conf"]


def test_a_later_drop_in_is_not_overruled_in_silence(make: Make) -> None:
    root = make("drop-in-directory")
    root.at("/etc/kubelet.d/95-late.conf").write_text("containerRuntimeEndpoint: unix:///x.sock\n")

    with pytest.raises(errors.RequestInvalid, match=r"95-late\.conf"):
        installation.plan_of(root, SETTINGS, is_runtime_set=False)


def test_a_vendors_unit_is_not_written_to(make: Make) -> None:
    plan = install(make("vendor-unit"))

    assert [each.path for each in plan.kubelet_files] == [
        "/etc/systemd/system/kubelet.service.d/90-cri-proxy.conf"
    ]


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
    told: list[str] = []

    installation.uninstall(root, str(SETTINGS.serve.listen), told.append, seconds=1)

    assert file.read_text() == original + "maxPods: 42\n"
    assert any("/var/lib/kubelet/config.yaml" in line for line in told)


def test_what_was_interrupted_is_taken_back_from_the_journal(make: Make) -> None:
    root = make("kubeadm-flags")
    before = snapshot(root)
    plan = installation.plan_of(root, SETTINGS, is_runtime_set=False)
    journal = changes.Journal(root)
    journal.write(plan.files[0].path, plan.files[0].text.encode())
    edit = plan.kubelet_files[0]
    journal.write(edit.path, edit.text.encode(), words=edit.words)

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


def test_an_unknown_edition_of_the_journal_is_refused(make: Make) -> None:
    root = make("kubeadm-flags")
    install(root)
    journal = root.at(f"{changes.DIRECTORY}/journal.json")
    journal.write_text(journal.read_text().replace('"edition": 1', '"edition": 99'))

    with pytest.raises(errors.RequestInvalid, match="another version"):
        installation.plan_of(root, SETTINGS, is_runtime_set=False)
