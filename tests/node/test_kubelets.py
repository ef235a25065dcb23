"""kubelet's runtime, found and changed as it is configured on real nodes."""

from __future__ import annotations

import pytest

from cri_proxy import errors
from cri_proxy.node import kubelets
from cri_proxy.node.root import Root
from tests.node.conftest import CONTAINERD, PROXY, UNIT, Make

OUR_DROPIN = "/etc/systemd/system/kubelet.service.d/90-cri-proxy.conf"


def edits(root: Root) -> dict[str, str]:
    """Return the new text of the files that must change, by path."""
    return kubelets.edits(root, kubelets.find(root), PROXY)


@pytest.mark.parametrize(
    ("kind", "unit", "endpoint"),
    [
        ("kubeadm-flags", "kubelet.service", CONTAINERD),
        ("kubeadm-instance", "kubelet.service", CONTAINERD),
        ("eks", "kubelet.service", CONTAINERD),
        ("drop-in-directory", "kubelet.service", CONTAINERD),
        ("extra-args", "kubelet.service", CONTAINERD),
        ("crio", "kubelet.service", "unix:///var/run/crio/crio.sock"),
        ("k3s", "k3s.service", "unix:///run/k3s/containerd/containerd.sock"),
    ],
)
def test_the_runtime_is_found_where_the_node_has_it(
    make: Make, kind: str, unit: str, endpoint: str
) -> None:
    found = kubelets.find(make(kind))

    assert (found.unit, found.endpoint, found.is_k3s) == (unit, endpoint, kind == "k3s")


@pytest.mark.parametrize(
    ("kind", "path", "line"),
    [
        (
            "kubeadm-flags",
            "/var/lib/kubelet/kubeadm-flags.env",
            f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint={PROXY} '
            '--pod-infra-container-image=registry.k8s.io/pause:3.9"',
        ),
        (
            "kubeadm-instance",
            "/var/lib/kubelet/instance-config.yaml",
            f"containerRuntimeEndpoint: {PROXY}",
        ),
        (
            "eks",
            "/etc/kubernetes/kubelet/config.json",
            f'    "containerRuntimeEndpoint": "{PROXY}"',
        ),
        (
            "drop-in-directory",
            "/etc/kubelet.d/90-cri-proxy.conf",
            f"containerRuntimeEndpoint: {PROXY}",
        ),
        (
            "extra-args",
            "/etc/sysconfig/kubelet",
            f'KUBELET_EXTRA_ARGS="--v=2 --container-runtime-endpoint={PROXY}"',
        ),
        (
            "vendor-unit",
            OUR_DROPIN,
            f"ExecStart=/usr/bin/kubelet --container-runtime-endpoint={PROXY} --v=2",
        ),
        (
            "crio",
            "/etc/systemd/system/kubelet.service",
            "ExecStart=/usr/bin/kubelet --config=/etc/kubernetes/kubelet.conf "
            f"--container-runtime-endpoint {PROXY}",
        ),
        (
            "k3s",
            "/etc/rancher/k3s/config.yaml.d/90-cri-proxy.yaml",
            f'  - "container-runtime-endpoint={PROXY}"',
        ),
    ],
)
def test_the_runtime_is_changed_in_one_line(make: Make, kind: str, path: str, line: str) -> None:
    assert line in edits(make(kind))[path].splitlines()


def test_a_drop_in_resets_the_vendors_command_before_it_repeats_it(make: Make) -> None:
    text = edits(make("vendor-unit"))[OUR_DROPIN]

    assert text.splitlines()[:2] == ["[Service]", "ExecStart="]
    assert len(text.splitlines()) == 3


def test_a_flag_in_a_vendors_environment_is_overridden_by_a_later_one(make: Make) -> None:
    root = make("vendor-unit")
    root.at(UNIT).write_text(
        f'[Service]\nEnvironment="ARGS=--container-runtime-endpoint={CONTAINERD}"\n'
        "ExecStart=/usr/bin/kubelet $ARGS\n"
    )

    assert edits(root)[OUR_DROPIN].endswith(
        f"ExecStart=/usr/bin/kubelet $ARGS --container-runtime-endpoint={PROXY}\n"
    )


def test_a_kubelet_without_any_configuration_gets_a_flag_in_a_drop_in(make: Make) -> None:
    root = make("vendor-unit")
    root.at(UNIT).write_text("[Service]\nExecStart=/usr/bin/kubelet --v=2\n")

    found = kubelets.find(root)

    assert found.endpoint == CONTAINERD
    assert edits(root)[OUR_DROPIN].endswith(
        f"ExecStart=/usr/bin/kubelet --v=2 --container-runtime-endpoint={PROXY}\n"
    )


def test_the_image_service_follows_where_it_is_configured(make: Make) -> None:
    root = make("vendor-unit")
    root.at(UNIT).write_text(
        "[Service]\nExecStart=/usr/bin/kubelet "
        f"--container-runtime-endpoint={CONTAINERD} --image-service-endpoint={CONTAINERD}\n"
    )

    text = edits(root)[OUR_DROPIN]

    assert CONTAINERD not in text
    assert f"--container-runtime-endpoint={PROXY} --image-service-endpoint={PROXY}" in text


def test_the_image_service_follows_in_a_configuration_file(make: Make) -> None:
    root = make("kubeadm-instance")
    file = root.at("/var/lib/kubelet/config.yaml")
    file.write_text(f"{file.read_text()}imageServiceEndpoint: {CONTAINERD}\n")

    text = edits(root)["/var/lib/kubelet/config.yaml"]

    assert f"imageServiceEndpoint: {PROXY}\n" in text
    assert f"containerRuntimeEndpoint: {PROXY}\n" in text


def test_the_last_drop_in_of_kubelets_directory_wins(make: Make) -> None:
    root = make("drop-in-directory")
    for name in ("20-a.conf", "30-b.conf", "40-c.ignored"):
        root.at(f"/etc/kubelet.d/{name}").write_text(f"containerRuntimeEndpoint: unix:///{name}\n")

    assert kubelets.find(root).endpoint == "unix:///30-b.conf"


def test_an_endpoint_without_a_scheme_is_a_unix_socket(make: Make) -> None:
    root = make("crio")

    assert kubelets.find(root).endpoint == "unix:///var/run/crio/crio.sock"
    assert kubelets.endpoint_of(root, ["--container-runtime-endpoint", "/x.sock"]) == "/x.sock"


def test_a_k3s_that_is_installed_already_uses_the_proxy(make: Make) -> None:
    root = make("k3s")
    for path, text in edits(root).items():
        root.at(path).parent.mkdir(parents=True, exist_ok=True)
        root.at(path).write_text(text)

    assert kubelets.find(root).endpoint == PROXY


def test_a_kubelet_of_its_own_is_preferred_to_k3s(make: Make) -> None:
    root = make("k3s")
    root.at("/etc/systemd/system/kubelet.service").write_text("[Service]\nExecStart=/bin/kubelet\n")

    assert kubelets.find(root).unit == "kubelet.service"


def test_a_unit_that_starts_nothing_is_no_kubelet(make: Make) -> None:
    root = make("vendor-unit")
    root.at(UNIT).write_text("[Service]\nExecStart=\n")

    with pytest.raises(errors.NotFound, match="no systemd unit starts kubelet"):
        kubelets.find(root)


def test_a_node_that_has_not_joined_its_cluster_is_refused(make: Make) -> None:
    root = make("kubeadm-instance")
    root.at("/var/lib/kubelet/config.yaml").unlink()

    with pytest.raises(errors.NotFound, match="join the node to its cluster first"):
        edits(root)


def test_a_configuration_that_is_not_json_is_refused(make: Make) -> None:
    root = make("eks")
    root.at("/etc/kubernetes/kubelet/config.json").write_text("{")

    with pytest.raises(errors.RequestInvalid, match=r"config\.json is not valid JSON"):
        kubelets.find(root)


def test_a_flag_in_a_form_that_cannot_be_edited_is_refused(make: Make) -> None:
    root = make("kubeadm-flags")
    file = root.at("/var/lib/kubelet/kubeadm-flags.env")
    file.write_text(f'KUBELET_KUBEADM_ARGS=\'"--container-runtime-endpoint" "{CONTAINERD}"\'\n')

    with pytest.raises(errors.RequestInvalid, match=r"kubeadm-flags\.env has --container-runtime"):
        edits(root)


def test_a_drop_in_that_would_override_ours_is_refused(make: Make) -> None:
    root = make("drop-in-directory")
    root.at("/etc/kubelet.d/95-late.conf").write_text("containerRuntimeEndpoint: unix:///x.sock\n")

    with pytest.raises(errors.RequestInvalid, match=r"95-late\.conf sets containerRuntimeEndpoint"):
        edits(root)


def test_a_later_drop_in_with_other_keys_is_accepted(make: Make) -> None:
    root = make("drop-in-directory")
    root.at("/etc/kubelet.d/95-late.conf").write_text("maxPods: 42\n")

    assert list(edits(root)) == ["/etc/kubelet.d/90-cri-proxy.conf"]
